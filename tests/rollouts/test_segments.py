"""Segments are accepted or rejected as a whole, as in a plain reference."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_skd
from keras_skd import Source
from keras_skd import rollouts
from tests.support import writing

LENGTH = 36
STOPS = (3, 7)
# A third of the vocabulary: most segments are short.
ENDS = (4, 5, 6, 11, 12, 20, 21, 22, 23)
# One row is nearly full, one has room for a segment or two.
LENGTHS = [2, 7, 35, 30, 4, 1, 12, 3]
THRESHOLD = -4.0


@pytest.fixture(scope="module")
def models():
    teacher, student = (
        writing.random_causal_lm("llama", seed=seed, num_layers=1)
        for seed in (1, 2)
    )
    forward = [writing.forward(model) for model in (teacher, student)]
    return teacher, student, *forward


@pytest.fixture(scope="module")
def batch():
    return writing.prompts(LENGTHS, LENGTH)


class Reference:
    """Algorithm 1 with segments for tokens: no cache, one row at a time."""

    def __init__(self, models, batch, ends, score, threshold):
        _, _, self.teacher, self.student = models
        self.ends, self.score, self.threshold = ends, score, threshold
        self.margin = np.inf
        self.segments = []
        self.token_ids = batch["token_ids"].copy()
        self.sources = batch["padding_mask"].astype("int32")
        for row, start in enumerate(batch["padding_mask"].sum(1)):
            while start < LENGTH:
                start = self._segment(row, start)
                if self.token_ids[row, start - 1] in STOPS:
                    break

    def _segment(self, row, start):
        end = self._write(self.student, row, start)
        log_probs = np.zeros(LENGTH)
        of_tokens = _log_softmax(self.teacher(self.token_ids)[row])
        for t in range(start, end):
            log_probs[t] = of_tokens[t - 1, self.token_ids[row, t]]
        score = self.score(self.token_ids[row], start, end, log_probs)
        self.margin = min(self.margin, abs(score - self.threshold))
        source = Source.STUDENT
        if score < self.threshold:
            self.token_ids[row, start:] = 0
            end = self._write(self.teacher, row, start)
            source = Source.TEACHER
        self.sources[row, start:end] = source
        self.segments.append((end - start, source))
        return end

    def _write(self, model, row, end):
        while end < LENGTH:
            logits = model(self.token_ids)[row, end - 1]
            second, first = np.sort(logits)[-2:]
            self.margin = min(self.margin, first - second)
            self.token_ids[row, end] = np.argmax(logits)
            end += 1
            if self.token_ids[row, end - 1] in (*self.ends, *STOPS):
                break
        return end


def _log_softmax(logits):
    logits = logits.astype("float64")
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def _mean(token_ids, start, end, log_probs):
    return log_probs.mean() * LENGTH / (end - start)


def _distiller(models, **kwargs):
    teacher, student, *_ = models
    rollout = rollouts.Segments(
        student_sampler="greedy", teacher_sampler="greedy", **kwargs
    )
    return keras_skd.Distiller(teacher, student, rollout, stop_token_ids=STOPS)


def _assert_equal(written, reference):
    # Far above rounding errors, so that the two must agree.
    assert reference.margin > 1e-3
    np.testing.assert_array_equal(written["sources"], reference.sources)
    np.testing.assert_array_equal(
        written["token_ids"], reference.token_ids * (reference.sources > 0)
    )


@pytest.fixture(scope="module")
def distiller(models):
    # At step 0 every segment is accepted, at step 2 none.
    threshold = keras.optimizers.schedules.PiecewiseConstantDecay(
        [0, 1], [-1e9, THRESHOLD, 1.0]
    )
    return _distiller(models, segment_end_token_ids=ENDS, threshold=threshold)


@pytest.mark.parametrize(
    ("step", "threshold", "authors"),
    [
        (0, -1e9, {Source.STUDENT}),
        (1, THRESHOLD, {Source.STUDENT, Source.TEACHER}),
        (2, 1.0, {Source.TEACHER}),
    ],
    ids=["all stand", "some stand", "none stands"],
)
def test_segments(models, batch, distiller, step, threshold, authors):
    reference = Reference(models, batch, ENDS, _mean, threshold)
    assert {source for _, source in reference.segments} == authors
    distiller.training_step.assign(step)
    written = distiller.generate_rollout(batch)
    _assert_equal(written, reference)
    if len(authors) == 1:
        return
    # Segments are of many lengths; some rows stop, and some run full.
    assert len({length for length, _ in reference.segments}) > 3
    lengths = written["padding_mask"].sum(1)
    assert (lengths == LENGTH).any() and (lengths[:2] < LENGTH).any()


@keras.saving.register_keras_serializable(package="tests")
def evenness(token_ids, segment, log_probs):
    """A score from all three arguments that a user's function gets."""
    segment = ops.cast(segment, "int32")
    total = ops.sum(token_ids * segment, axis=1)
    likely = ops.sum(ops.cast(log_probs < -6.0, "int32"), axis=1)
    return ops.cast((total + likely) % 3, "float32")


def _evenness(token_ids, start, end, log_probs):
    total = token_ids[start:end].sum()
    return (total + (log_probs < -6.0).sum()) % 3


def test_a_score_of_ones_own_and_segments_up_to_the_stop_token(models, batch):
    """A segment may be much longer than the tokens that are read at once."""
    distiller = _distiller(
        models, segment_end_token_ids=(), threshold=0.5, score=evenness
    )
    reference = Reference(models, batch, (), _evenness, 0.5)
    assert {source for _, source in reference.segments} == {2, 3}
    assert max(length for length, _ in reference.segments) > 20
    _assert_equal(distiller.generate_rollout(batch), reference)


def test_bad_input(models, batch):
    for make, error, words in (
        (
            lambda: rollouts.Segments(4),
            TypeError,
            ["`segment_end_token_ids`", "4"],
        ),
        (
            lambda: rollouts.Segments(("\n",)),
            TypeError,
            ["`segment_end_token_ids`", r"'\n'"],
        ),
        (
            lambda: rollouts.Segments((4,), threshold="low"),
            TypeError,
            ["`threshold`", "'low'"],
        ),
        (
            lambda: rollouts.Segments((4,), score="mean"),
            TypeError,
            ["`score`", "'mean'"],
        ),
        (
            lambda: rollouts.Segments((4,), teacher_sampler="beam"),
            ValueError,
            ["`teacher_sampler`", "BeamSampler"],
        ),
        (
            lambda: _distiller(
                models, segment_end_token_ids=(4,)
            ).generate_rollout(
                {
                    **batch,
                    "teacher_token_ids": batch["token_ids"],
                    "teacher_padding_mask": batch["padding_mask"],
                }
            ),
            ValueError,
            ['"teacher_prompts"', "`Segments`", "`Speculative`"],
        ),
    ):
        with pytest.raises(error) as info:
            make()
        for word in words:
            assert word in str(info.value), str(info.value)
