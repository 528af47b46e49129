"""`keras.distribution` on virtual devices and in several processes.

Each test starts `jax_worker`, since the number of devices is read when JAX
starts.
"""

import math
import re

import keras
import numpy as np
import pytest

from tests.distributed.jax_worker import LENGTH
from tests.distributed.jax_worker import finish
from tests.distributed.jax_worker import results_of
from tests.distributed.jax_worker import start

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax",
    reason="`keras.distribution` is of JAX alone",
)
HIDDEN_DIM = 16
# Rows of all kinds in a step: a mixture whose rows differ, a rule that changes,
# a mean over the tokens of all devices, gradients of two batches, and a last
# batch that four devices do not divide.
EVERYTHING = dict(rollout="mixture", reduction="token_mean", accumulate=2)
# Responses of less than half of the columns, which are not all read.
GIVEN = dict(rollout="supervised", reduction="token_mean", padding=64 - LENGTH)


def assert_same(result, one):
    """Asserts that a training gave the numbers of one device."""
    # A token could otherwise be chosen by the rounding of its logits.
    assert one["margin"] > 5e-5
    # Some rows end before others, which are on other devices.
    assert min(one["lengths"]) < max(one["lengths"])
    assert result["tokens"] == one["tokens"]
    assert len(result["logs"]) == len(one["logs"]) >= 10
    for log, expected in zip(result["logs"], one["logs"]):
        assert log == pytest.approx(expected, abs=1e-5)
    assert result["scores"] == pytest.approx(one["scores"], abs=1e-5)
    for weight, expected in zip(result["weights"], one["weights"]):
        np.testing.assert_allclose(weight, expected, atol=5e-5)
    first, last = one["logs"][0]["loss"], one["logs"][-1]["loss"]
    assert last < first


def size(shape):
    """The number of elements of a shape such as `"f32[8,16]"`."""
    return math.prod(map(int, re.findall(r"\d+", shape.split("[")[1])))


def sent_in_loops(program):
    return {name: c for name, c in program["loops"].items() if name}


def test_rows_stay_on_their_devices():
    four = dict(mesh=4, **EVERYTHING)
    calls = [
        ("program", {}),
        ("program", dict(mesh=2)),
        ("program", dict(mesh=4)),
        # KerasHub's map cuts weights along the axis of the rows, too.
        ("program", dict(mesh=[2, 2], family="Gemma")),
        ("train", EVERYTHING),
        ("train", four),
        ("train", dict(micro_batch_size=2, **four)),
        ("train", GIVEN),
        ("train", dict(mesh=4, **GIVEN)),
        ("train", dict(mesh=[2, 2], micro_batch_size=2, **GIVEN)),
        (
            "refused",
            dict(mesh=2, micro_batch_size=2, accumulate_gradients=False),
        ),
    ]
    alone, two, four, cut, *trained, error = results_of(4, calls)
    assert "is for one device" in error

    assert not alone["loops"]
    for program in (two, four):
        # In a round: who has ended, and the most room.
        (in_round,) = sent_in_loops(program).values()
        assert sorted(shapes for _, shapes in in_round) == [
            ["pred[]"],
            ["s32[]"],
        ]
        # Once a step: two counts, and the gradients and metrics in one.
        assert len(program["loops"][""]) == 3
    # In loops, rows are neither gathered nor exchanged: their 4 on a device.
    for name, collectives in sent_in_loops(cut).items():
        for kind, shapes in collectives:
            assert kind in ("all-gather", "all-reduce"), (name, kind)
            sizes = {re.match(r"\w+\[(\d*)", s)[1] for s in shapes}
            assert sizes <= {"4", ""}, (name, kind, shapes)
    # Hidden states of a token are the largest: neither caches nor logits.
    per_draft = [s for _, shapes in cut["loops"]["2-3"] for s in shapes]
    assert max(map(size, per_draft)) == 4 * HIDDEN_DIM

    # On each device; the weights are the same.
    held = [p["arguments"] + p["temporary"] for p in (alone, two, four)]
    assert held[1] < 0.7 * held[0] and held[2] < 0.7 * held[1]
    for one, *distributed in (trained[:3], trained[3:]):
        for result in distributed:
            assert_same(result, one)


@pytest.mark.long
@pytest.mark.parametrize("family", ["Llama", "Gemma", "Gemma3", "Qwen"])
def test_teacher_and_student_are_cut_by_the_map_of_kerashub(family):
    calls = [
        ("train", dict(family=family)),
        *(
            ("train", dict(family=family, mesh=[2, 2], cut=cut))
            for cut in (["teacher", "student"], ["teacher"], ["student"])
        ),
    ]
    one, both, teacher, student = results_of(4, calls)
    for result in (both, teacher, student):
        assert_same(result, one)
    assert both["cut"]["teacher"] == both["cut"]["student"] >= 8
    assert teacher["cut"]["student"] == student["cut"]["teacher"] == 0


@pytest.mark.long
def test_eight_devices():
    rows = dict(num_rows=12, batch_size=8, **EVERYTHING)
    one, *several = results_of(
        8,
        [
            ("train", rows),
            ("train", dict(mesh=8, **rows)),
            ("train", dict(mesh=[4, 2], **rows)),
            ("train", dict(mesh=[1, 8], cut=[], **rows)),
        ],
    )
    for result in several:
        assert_same(result, one)


@pytest.mark.long
@pytest.mark.parametrize("change", [{"lora": True}, {"int8": True}])
def test_adapters_and_a_quantized_teacher(change):
    one, *several = results_of(
        4,
        [
            ("train", change),
            ("train", dict(mesh=4, **change)),
            ("train", dict(mesh=[2, 2], **change)),
        ],
    )
    for result in several:
        assert_same(result, one)


@pytest.mark.long
def test_mixed_precision():
    one, *several = results_of(
        4,
        [
            ("train", dict(policy="mixed_bfloat16", mesh=mesh))
            for mesh in (None, 4, [2, 2])
        ],
    )
    for result in several:
        # Products are rounded to 8 bits, in a different order: some tokens
        # differ.
        assert result["scores"] == pytest.approx(one["scores"], abs=0.02)
        assert result["logs"][-1]["loss"] < result["logs"][0]["loss"]


@pytest.mark.long
def test_no_two_devices_draw_the_same_numbers():
    (tokens,) = results_of(8, [("sample", {"mesh": 8})])
    first, second, again, _ = (tuple(map(tuple, t)) for t in tokens)
    # A row on each device, with the same prompt in all.
    assert len(set(first)) == len(first) == 8
    assert first == again != second


@pytest.mark.long
def test_resume(tmp_path):
    (result,) = results_of(
        4, [("resume", {"folder": str(tmp_path), "mesh": 4})]
    )
    assert result["steps"] == [6, 3, 6]
    through, resumed = result["weights"]
    assert through == resumed


@pytest.mark.long
def test_two_processes_and_one_that_dies(tmp_path):
    (one,) = results_of(2, [("train_in_processes", {})])
    call = ("train_in_processes", {"folder": str(tmp_path)})
    dying = ("train_in_processes", {**call[1], "dies_after": 3})
    survivor, dead = start(1, [dying], num_processes=2)
    dead.wait(timeout=540)
    # JAX misses the other's heartbeat.
    _, errors = survivor.communicate(timeout=60)
    assert survivor.returncode != 0
    assert "another task died" in errors

    resumed = [finish(p) for p in start(1, [call], num_processes=2)]
    assert (tmp_path / "student.weights.h5").exists()
    for (result,) in resumed:
        assert result["num_devices"] == 2
        for weight, expected in zip(result["weights"], one["weights"]):
            np.testing.assert_allclose(weight, expected, atol=1e-5)
        assert result["scores"] == pytest.approx(one["scores"], abs=1e-5)
