"""Runs of tiny models. On JAX alone, as the experiment is."""

import keras
import numpy as np
import pytest

from experiments import cells
from experiments import cost
from experiments import models
from experiments import students
from experiments import teachers
from keras_skd import losses
from keras_skd import rollouts
from tests.support.sums import Sums

only_jax = pytest.mark.skipif(
    keras.config.backend() != "jax", reason="the experiment runs on JAX"
)


@only_jax
def test_teachers_and_initial_students_are_kept(monkeypatch, tmp_path, tiny):
    steps = dict(num_steps=2, batch_size=4, learning_rate=1e-2)
    monkeypatch.setattr(teachers, "FOLDER", tmp_path)
    monkeypatch.setattr(students, "FOLDER", tmp_path)
    monkeypatch.setitem(teachers.STEPS, tiny, steps)
    monkeypatch.setattr(students, "PRETRAINING", steps)
    task = Sums()
    # Those of the task are after the first thousand pairs.
    monkeypatch.setattr(task, "easy_pairs", task.train[40:], raising=False)
    facts = teachers.facts(task, tiny)
    assert set(facts["test"]) == {"exact match", "all steps right"}
    teacher = teachers.load(task, tiny)
    assert teacher.count_params() == facts["parameters"]
    assert teacher.preprocessor.sequence_length == task.sequence_length

    tokenizer = teacher.preprocessor.tokenizer
    student = models.make(task, "student", tiny, tokenizer, seed=9)

    def initialise(init):
        students.initialise(student, task, tiny, init, size=40, seed=0)
        return np.concatenate([w.ravel() for w in student.get_weights()])

    first, random = initialise("pretrained"), initialise("random")
    assert np.abs(first - random).max() > 1e-3
    # The second one is loaded: nothing is trained any more.
    monkeypatch.setattr(students.training, "fine_tune", None)
    np.testing.assert_array_equal(initialise("pretrained"), first)


@only_jax
def test_a_run_repeats_itself_after_another_one(sums):
    def run(rate, seed):
        group = cells.Group("sums", 40, "random", "skd")
        line = sums.run(cells.Cell(group, rate, seed), steps=(1, 2))
        # Time is all that may differ.
        line["seconds"] = line["cpu_seconds"] = None
        return line

    first, other = run(1e-2, 0), run(1e-2, 1)
    # What an earlier run learns of acceptance decides how many are drafted.
    for variable in sums._method("skd").distiller.rollout.variables:
        variable.assign(np.array(variable) + 1)
    assert run(1e-2, 0) == first
    assert first["log"] != other["log"]
    assert run(1e-3, 0)["val_kl"] != first["val_kl"]
    # At the start, after a step and after two.
    assert len(first["test"]) == len(first["val_kl"]) == 3
    assert first["val_kl"][2] < first["val_kl"][0]
    assert first["log"]["step"] == [1, 2]
    numerators, denominators = first["items"]
    percent = 100 * sum(numerators) / sum(denominators)
    assert len(numerators) == 4 and first["test"][2] == percent


@pytest.mark.parametrize(
    "rollout, loss, student, teacher",
    [
        ("supervised", "cross_entropy", 1, 0),
        ("supervised", "forward_kl", 1, 1),
        ("on_policy", "forward_kl", 9, 1),
        ("teacher", "forward_kl", 1, 9),
        # Four verifications of two tokens each; the loss reads no more.
        ("speculative", "forward_kl", 9, 4),
        (
            rollouts.Mixture({"supervised": 3, "on_policy": 1}),
            "forward_kl",
            3,
            1,
        ),
        (rollouts.Switch("supervised", "on_policy", 5), "forward_kl", 1, 1),
        (rollouts.Switch("supervised", "on_policy", 4), "forward_kl", 9, 1),
    ],
)
def test_passes_of_a_row(rollout, loss, student, teacher):
    logs = {"response_length": 8, "tokens_per_teacher_pass": 2}
    found = cost.passes(rollouts.get(rollout), losses.get(loss), logs, step=4)
    assert found == (student, teacher)
