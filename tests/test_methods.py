"""Each published method runs, has the right authors, and learns."""

import pathlib

import keras
import numpy as np
import pytest
from keras import ops

import keras_skd
from keras_skd import Source
from keras_skd import acceptance
from keras_skd import losses
from keras_skd import rollouts
from keras_skd import schedules
from tests.support import writing
from tests.support.methods import METHODS
from tests.support.methods import markdown

README = pathlib.Path(__file__).parent.parent / "README.md"
VOCABULARY_SIZE = 48
LENGTH = 12
LENGTHS = np.array([3, 4, 5, 3, 2, 4, 1, 3])
NUM_STEPS = 6
NAMES = {
    "acceptance": acceptance,
    "losses": losses,
    "rollouts": rollouts,
    "schedules": schedules,
    "num_steps": NUM_STEPS,
    "steps_per_epoch": 2,
    "epochs": NUM_STEPS // 2,
    "newline": 5,
    "threshold": -5.0,
}
# The part of a teacher prompt that the student does not see.
CONTEXT = [7, 9]


class Observed(keras_skd.Distiller):
    """Records the number of tokens of each author in each step."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.counts = keras.Variable(
            np.zeros((NUM_STEPS, 5)), dtype="float32", trainable=False
        )

    def measure(self, rollout):
        this_step = ops.arange(NUM_STEPS) == self.training_step
        super().measure(rollout)
        counts = ops.sum(ops.one_hot(rollout["sources"], 5), axis=(0, 1))
        self.counts.assign(
            ops.where(this_step[:, None], counts, self.counts[...])
        )


@pytest.fixture(scope="module")
def models():
    """A teacher, a student, its first weights, and the teacher's texts."""
    teacher, student = (
        writing.random_causal_lm(
            "llama",
            seed=seed,
            embedding=0.6,
            num_layers=1,
            vocabulary_size=VOCABULARY_SIZE,
        )
        for seed in (1, 2)
    )
    prompts = writing.prompts(LENGTHS, LENGTH, VOCABULARY_SIZE)
    written = writing.write("teacher", teacher, student, prompts, seed=1)
    data = {
        "token_ids": written["token_ids"],
        "padding_mask": written["padding_mask"],
        "response_mask": written["response_mask"],
    }
    return teacher, student, student.get_weights(), prompts, data


def _with_context(batch):
    rows = np.tile(CONTEXT, (len(LENGTHS), 1))
    mask = np.arange(LENGTH) < LENGTHS[:, None]
    return {
        **batch,
        "teacher_token_ids": np.hstack(
            [rows, np.where(mask, batch["token_ids"], 0)]
        ),
        "teacher_padding_mask": np.hstack([np.ones_like(rows), mask]),
    }


def _distance(teacher, student, data, context):
    """KL(teacher || student) on what the teacher wrote, in NumPy."""

    def log_probs(model, token_ids):
        inputs = {
            "token_ids": token_ids,
            "padding_mask": np.ones_like(token_ids),
        }
        logits = ops.convert_to_numpy(model(inputs)).astype("float64")
        logits = logits - logits.max(-1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    rows = np.tile(np.array(context, "int32"), (len(LENGTHS), 1))
    seen = np.hstack([rows, data["token_ids"]])
    p = log_probs(teacher, seen)[:, len(context) : -1]
    q = log_probs(student, data["token_ids"])[:, :-1]
    return (np.exp(p) * (p - q)).sum(-1)[data["response_mask"][:, 1:]].mean()


@pytest.mark.parametrize("name", METHODS)
def test_method(models, name, one_draft_length):
    teacher, student, weights, prompts, data = models
    method = METHODS[name]
    rollout = rollouts.get(eval(method.rollout, NAMES))
    arguments = eval(f"dict({method.compile})", NAMES)
    student.set_weights(weights)
    distiller = Observed(teacher, student, rollout, seed=1)
    distiller.compile(optimizer=keras.optimizers.Adam(0.03), **arguments)
    batch, context = data if rollout.needs_responses else prompts, []
    if "teacher_prompts" in name:
        batch, context = _with_context(batch), CONTEXT

    before = _distance(teacher, student, data, context)
    history = distiller.fit(
        batch, batch_size=len(LENGTHS), epochs=NUM_STEPS, verbose=0
    ).history
    after = _distance(teacher, student, data, context)
    print(f"{name}: {before:.2f} -> {after:.2f}", history["loss"])
    assert np.isfinite(history["loss"]).all()
    assert after < 0.9 * before

    writes = method.writes.replace(", then", ",").split(", ")
    expected = {Source[author.upper()] for author in writes}
    counts = ops.convert_to_numpy(distiller.counts)
    assert {*np.flatnonzero(counts.sum(0))} - {0, 1} == expected
    if ", then" in method.writes:
        half = NUM_STEPS // 2
        assert counts[:half, Source.DATA].all()
        assert not counts[:half, Source.STUDENT].any()
        assert counts[half:, Source.STUDENT].all()
        assert not counts[half:, Source.DATA].any()
    # The metrics match the records.
    fractions = counts[:, Source.TEACHER] / counts[:, 2:].sum(1)
    np.testing.assert_allclose(
        history["teacher_token_fraction"], fractions, rtol=1e-5
    )


def test_readme_has_the_same_table():
    readme = README.read_text()
    for line in markdown():
        assert line in readme
