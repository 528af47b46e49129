"""`tf.distribute` strategies give the numbers of one device.

Each test starts processes of its own, see `tensorflow_worker`.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys

import keras
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow",
        reason="`tf.distribute` is TensorFlow's",
    ),
]
ROOT = pathlib.Path(__file__).parents[2]
WORKER = [sys.executable, "-m", "tests.distributed.tensorflow_worker"]


def run(*arguments):
    """What a process of a worker prints in its last line."""
    output = subprocess.run(
        [*WORKER, *map(str, arguments)],
        check=True,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    return json.loads(output.splitlines()[-1])


def run_workers(*arguments, count=2, timeout=1800):
    """The exit codes and outputs of processes that train together."""
    processes = start_workers(*arguments, count=count)
    outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    return [process.returncode for process in processes], outputs


def start_workers(*arguments, count=2):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("localhost", 0))
    workers = [f"localhost:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    return [
        subprocess.Popen(
            [*WORKER, *map(str, arguments)],
            cwd=ROOT,
            env={
                **os.environ,
                "TF_CONFIG": json.dumps(
                    {
                        "cluster": {"worker": workers},
                        "task": {"type": "worker", "index": index},
                    }
                ),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(count)
    ]


def check_equal(differences, *names):
    assert list(differences) == list(names)
    for name, of_case in differences.items():
        # So that the comparison of the weights says something.
        assert of_case.pop("trained") > 1e-3, name
        assert max(of_case.values()) < 1e-4, (name, of_case)


def test_two_devices():
    cases = "token_mean", "micro_batches", "speculative"
    results = run(2, *cases, "checks")
    checks = results.pop("checks")
    check_equal(results, *cases)
    assert checks["generate_is_equal"] and checks["generates_in_scope"]
    # Eight rows of one prompt, four on each device, in two calls.
    assert checks["different_texts"] > 8
    assert checks["resumed_is_equal"]
    assert "strategy.scope()" in checks["outside_of_scope"]
    assert "gradient_accumulation_steps=2" in checks["accumulation"]
    assert "is for one device" in checks["updates"]


CASES = (
    "padding",
    "sum",
    "distillm2",
    "steps_per_execution",
    "eagerly",
    "one_row",
    "mixture",
    "schedule",
    "lora",
    "int8_teacher",
)


@pytest.mark.long
def test_losses_and_rollouts():
    check_equal(run(2, *CASES), *CASES)
    results = run(2, "smallest_margin", "mixed_bfloat16")
    # Rounding, about 1e-6 of a logit, decides no token.
    assert results["smallest_margin"] > 1e-5
    results = results["mixed_bfloat16"]
    # Each device rounds its own sums.
    assert results["trained"] > 1e-3
    assert max(results.values()) < 2e-2


@pytest.mark.long
def test_four_devices():
    names = "token_mean", "speculative", "one_row", "mixture"
    check_equal(run(4, *names), *names)


@pytest.mark.long
def test_two_workers():
    names = "token_mean", "speculative", "one_row"
    codes, outputs = run_workers("workers", *names)
    assert codes == [0, 0], outputs
    check_equal(json.loads(outputs[0].splitlines()[-1]), *names)


@pytest.mark.long
def test_a_worker_that_dies(tmp_path):
    codes, outputs = run_workers("resume", tmp_path / "whole")
    assert codes == [0, 0], outputs
    whole = json.loads(outputs[0].splitlines()[-1])

    first, last = start_workers("resume", tmp_path / "killed", "dies")
    last.wait(timeout=1800)
    try:
        output, _ = first.communicate(timeout=60)
    finally:
        first.kill()
    assert first.returncode != 0
    assert "/job:worker/replica:0/task:1" in output, output

    codes, outputs = run_workers("resume", tmp_path / "killed")
    assert codes == [0, 0], outputs
    assert json.loads(outputs[0].splitlines()[-1]) == whole
