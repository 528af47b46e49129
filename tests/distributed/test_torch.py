"""Processes of `torchrun` train as one process does."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        keras.backend.backend() != "torch",
        reason="starts processes of PyTorch",
    ),
]
ROOT = pathlib.Path(__file__).parents[2]
SHORT = ("token_mean", "batch", "micro_batches")
OTHERS = ("differ", "sample", "decide", "refuse")
LONG = ("plain", "accumulation", "sum", "teacher", "lora", "padding")


def torchrun(num_processes, folder, *names):
    """Runs trainings of `torch_worker`. Returns the exit code and the output.

    The output includes what `torchrun` says about processes that have died.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(num_processes)]
    command += ["-m", "tests.distributed.torch_worker", str(folder), *names]
    process = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    return process.returncode, process.stdout


def results(folder, name, num_processes):
    """What each process has written."""
    return [
        dict(np.load(folder / f"{name}-{rank}.npz"))
        for rank in range(num_processes)
    ]


def check_equal(first, *others):
    for other in others:
        assert first.keys() == other.keys()
        for name in first:
            np.testing.assert_array_equal(first[name], other[name], name)


def check_as_one(folder, name, num_processes, atol=1e-4):
    """Compares the logs and weights of a training with those of one process."""
    from tests.distributed import torch_worker

    expected = torch_worker.train(*torch_worker.TRAININGS[name])
    processes = results(folder, name, num_processes)
    check_equal(*processes)
    received = processes[0]
    logs, expected_logs = (
        json.loads(str(x.pop("history"))) for x in (received, expected)
    )
    assert logs.keys() == expected_logs.keys()
    for key, values in expected_logs.items():
        assert logs[key] == pytest.approx(
            values, rel=atol, abs=atol, nan_ok=True
        ), key
    assert received.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(received[key], value, 0, atol, err_msg=key)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder and the output of what two processes do in the short tests."""
    folder = tmp_path_factory.mktemp("two")
    code, output = torchrun(2, folder, *SHORT, *OTHERS)
    assert code == 0, output
    return folder, output


@pytest.mark.parametrize("name", SHORT)
def test_two_processes_train_as_one(two, name):
    check_as_one(two[0], name, 2)


def test_processes_that_differ_at_first_end_equal(two):
    folder, output = two
    first, second = results(folder, "differ", 2)
    check_equal(first, second)
    epochs = len(json.loads(str(first["history"]))["loss"])
    # They are all printed and written once, by the first process.
    assert output.count("Epoch 1/") == 1
    assert output.count("The first step compiles") == 1
    folder = folder / "differ"
    assert len((folder / "log.csv").read_text().splitlines()) == 1 + epochs
    assert len((folder / "log.jsonl").read_text().splitlines()) == epochs
    assert (folder / "checkpoint.keras").exists()
    assert (folder / "best" / "config.json").exists()
    assert not (folder / "keras_backup").exists()


def test_updates_of_each_micro_batch_are_refused(two):
    (error, _) = results(two[0], "refuse", 2)
    assert "is for one device" in str(error["error"])


def test_the_first_process_decides(two):
    first, second = results(two[0], "decide", 2)
    check_equal(first, second)
    assert first["steps"] == 5
    assert first["rate"] == pytest.approx(0.01)
    assert not first[next(k for k in first if k.startswith("0 "))].any()


def test_no_two_processes_draw_the_same_and_a_seed_repeats(two):
    first, second = results(two[0], "sample", 2)
    for run in (first, second):
        for what in ("tokens", "numbers"):
            np.testing.assert_array_equal(
                run[f"first {what}"], run[f"second {what}"]
            )
    # After the same prompt, with the same weights.
    rows = np.concatenate([first["first tokens"], second["first tokens"]], 1)
    for step in rows:
        assert len(np.unique(step, axis=0)) == len(step) == 4
    numbers = np.concatenate([first["first numbers"], second["first numbers"]])
    assert len(np.unique(numbers)) == len(numbers)


@pytest.mark.long
@pytest.mark.parametrize("num_processes", [2, 4])
def test_processes_train_as_one(tmp_path, num_processes):
    code, output = torchrun(num_processes, tmp_path, *SHORT, *LONG)
    assert code == 0, output
    for name in (*SHORT, *LONG):
        check_as_one(tmp_path, name, num_processes)


@pytest.mark.long
def test_mixed_precision(tmp_path):
    code, output = torchrun(2, tmp_path, "mixed_precision")
    assert code == 0, output
    # The rounding of bfloat16 may depend on the number of rows.
    check_as_one(tmp_path, "mixed_precision", 2, atol=1e-3)


@pytest.mark.long
def test_the_others_end_where_one_dies_and_resume(tmp_path):
    code, output = torchrun(2, tmp_path, "uninterrupted")
    assert code == 0, output
    # `torchrun` ends, and says why.
    code, output = torchrun(2, tmp_path, "killed")
    assert code != 0
    assert "Signal 9 (SIGKILL)" in output
    assert "rank      : 1" in output
    assert (tmp_path / "killed" / "backup").exists()
    code, output = torchrun(2, tmp_path, "killed")
    assert code == 0, output
    check_equal(
        *results(tmp_path, "uninterrupted", 2), *results(tmp_path, "killed", 2)
    )
    assert not (tmp_path / "killed" / "backup").exists()
