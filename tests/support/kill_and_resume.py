"""Kills a training again and again, and compares with one that was not.

    make test-kill

or, on one backend,

    KERAS_BACKEND=jax python -m tests.support.kill_and_resume --kills 20

Each life of the training is a process, which `kill -9` ends at a random moment
while it starts, trains or writes a backup. The next one goes on from the
backup. In the end, weights, losses, history and the tokens of a rollout have
to be those of a training that ran through, bit for bit.
"""

import argparse
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import h5py
import numpy as np

ROOT = pathlib.Path(__file__).parents[2]
STEPS_PER_EPOCH = 5
BATCH_SIZE = 4
LENGTH = 16
# Seconds of a step at least: a signal that is late kills a few steps later, and
# not after the end of the training.
STEP_SECONDS = 0.05


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--num-speculative-tokens", type=int, help="instead of 'auto'"
    )
    parser.add_argument("--train", type=pathlib.Path, help="for itself")
    arguments = parser.parse_args()
    if arguments.train:
        train(
            arguments.train,
            arguments.epochs,
            arguments.num_speculative_tokens,
        )
        return
    with tempfile.TemporaryDirectory() as folder:
        report = compare(
            pathlib.Path(folder),
            arguments.kills,
            arguments.epochs,
            arguments.seed,
            arguments.num_speculative_tokens,
        )
    print(f"{os.environ.get('KERAS_BACKEND')}: {report}")


def train(folder, epochs, num_speculative_tokens):
    """The training: the same script for the first life and for each later."""
    import keras

    import keras_skd
    import tests.conftest  # noqa: F401  What is set before a backend starts.
    from tests.support.writing import prompts
    from tests.support.writing import random_causal_lm

    distiller = keras_skd.Distiller(
        random_causal_lm("llama", 1, num_layers=1),
        random_causal_lm("gpt2", 2, num_layers=1),
        keras_skd.rollouts.Speculative(
            keras_skd.acceptance.TopK(12), num_speculative_tokens or "auto"
        ),
        seed=3,
    )
    distiller.compile(optimizer=keras.optimizers.Adam(0.01))
    history = distiller.fit(
        data(),
        batch_size=BATCH_SIZE,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[
            recorder(folder / "steps.jsonl"),
            keras_skd.callbacks.BackupAndRestore(
                folder / "backup", save_freq=2, delete_checkpoint=False
            ),
        ],
    )
    rollout = distiller.generate_rollout(
        prompts([1, 2, 3, 4, 5, 6], LENGTH, seed=9)
    )
    with open(folder / "partial.npz", "wb") as file:
        np.savez(
            file,
            *distiller.student.get_weights(),
            tokens=rollout["token_ids"],
            history=json.dumps(history.history),
        )
    os.replace(folder / "partial.npz", folder / "result.npz")


def data():
    from tests.support.writing import prompts

    return prompts([1, 2, 3, 5] * STEPS_PER_EPOCH, LENGTH)


def recorder(path):
    """A callback that writes the loss of each step to a file."""
    import keras

    class Recorder(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.step = None

        def on_train_batch_end(self, batch, logs=None):
            step = int(self.model.training_step)
            if step == self.step or self.model.num_skipped:
                return  # Skipped on the way to where it goes on.
            self.step = step
            time.sleep(STEP_SECONDS)
            line = json.dumps({"step": step, "loss": float(logs["loss"])})
            with open(path, "a") as file:
                file.write(line + "\n")

    return Recorder()


def compare(folder, kills, epochs, seed=0, num_speculative_tokens=None):
    """Trains once with and once without kills.

    Args:
        folder: `pathlib.Path`, empty.
        kills: int. The number of kills.
        epochs: int. The length of the training, enough for all kills.
        seed: int. Of the moments of the kills.
        num_speculative_tokens: int, or `None` for `"auto"`, which compiles for
            longer.

    Returns:
        str, what was done.
    """
    whole, killed = folder / "whole", folder / "killed"
    for path in (whole, killed):
        path.mkdir()
    start = time.monotonic()
    finish(launch(whole, epochs, num_speculative_tokens), whole)
    seconds = time.monotonic() - start
    rng = random.Random(seed)
    num_steps = epochs * STEPS_PER_EPOCH
    while_writing = 0
    for i in range(kills):
        born = time.time()
        process = launch(killed, epochs, num_speculative_tokens)
        # Some before the first step, the others some steps later.
        if i % 5 == 4:
            time.sleep(rng.uniform(0.0, seconds / 2))
        else:
            # Half of the steps are for what runs on until the signal arrives.
            longest = max(1, num_steps // (2 * kills) - 1)
            wait_for_steps(process, killed, rng.randint(1, longest))
            time.sleep(rng.uniform(0.0, 0.02))
        assert process.poll() is None, "The training ended before its kill."
        process.send_signal(signal.SIGKILL)
        process.wait()
        while_writing += check_backup(killed / "backup", born)
    finish(launch(killed, epochs, num_speculative_tokens), killed)
    check_same(whole, killed)
    return (
        f"{kills} kills, {while_writing} of them while a backup was written; "
        f"{num_steps} steps, {len(steps(killed))} with repeated ones; "
        "the same weights, losses, history and tokens"
    )


def launch(folder, epochs, num_speculative_tokens):
    module = "tests.support.kill_and_resume"
    command = [sys.executable, "-m", module, "--train", folder]
    command += ["--epochs", str(epochs)]
    if num_speculative_tokens is not None:
        command += ["--num-speculative-tokens", str(num_speculative_tokens)]
    with open(folder / "output.txt", "a") as output:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=output,
            stderr=output,
        )


def finish(process, folder):
    process.wait()
    if process.returncode or not (folder / "result.npz").exists():
        raise AssertionError((folder / "output.txt").read_text()[-4000:])


def wait_for_steps(process, folder, count):
    """Waits until a process has recorded a number of steps of its own."""
    path = folder / "steps.jsonl"
    before = num_lines(path)
    while num_lines(path) < before + count:
        if process.poll() is not None:
            finish(process, folder)
            return
        time.sleep(0.002)


def num_lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def check_backup(folder, since):
    """Checks that a backup is whole, and tells whether one was on its way.

    Args:
        folder: `pathlib.Path`, of the backups.
        since: float. When the process was started: an earlier one may have
            left a part of a file, too.
    """
    if not folder.exists():
        return False
    path = folder / "latest.weights.h5"
    if path.exists():
        with h5py.File(path, "r") as file:
            json.loads(file.attrs["progress"])
            file.visititems(lambda name, item: None)
            names = list(file)
        assert "student" in names
        assert "teacher" not in names
    return any(
        p.name.startswith(".partial") and p.stat().st_mtime > since
        for p in folder.iterdir()
    )


def steps(folder):
    lines = (folder / "steps.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def check_same(whole, killed):
    expected = {line["step"]: line["loss"] for line in steps(whole)}
    received = steps(killed)
    assert {line["step"] for line in received} == set(expected)
    for line in received:
        assert line["loss"] == expected[line["step"]], line
    with (
        np.load(whole / "result.npz") as one,
        np.load(killed / "result.npz") as other,
    ):
        assert set(one) == set(other)
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], name)


if __name__ == "__main__":
    main()
