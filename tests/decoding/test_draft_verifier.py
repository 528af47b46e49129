"""Drafting and acceptance agree where probabilities tie or are NaN."""

import keras_hub
import numpy as np
import pytest
from keras import ops

import keras_skd
from keras_skd import acceptance
from keras_skd.decoding._draft_verifier import DraftVerifier
from tests.support import frequencies
from tests.support.writing import prompts
from tests.support.writing import random_causal_lm

ROWS = 2000
SAMPLERS = {
    "top_k": lambda: keras_hub.samplers.TopKSampler(2, seed=1),
    "top_p": lambda: keras_hub.samplers.TopPSampler(0.4, seed=1),
    "top_p_and_k": lambda: keras_hub.samplers.TopPSampler(0.9, k=2, seed=1),
    "random": lambda: keras_hub.samplers.RandomSampler(seed=1),
    "greedy": lambda: keras_hub.samplers.GreedySampler(),
}


def _rows(logits, dtype="float32"):
    logits = np.tile(np.array(logits, "float32"), (ROWS, 1))
    return ops.cast(ops.convert_to_tensor(logits), dtype)


def _write(verifier, student_logits, teacher_logits):
    """What one step of speculation writes in each row, as NumPy arrays."""
    draft = verifier.draft(student_logits)
    distributions = verifier.distributions(teacher_logits, student_logits)
    accepted = verifier.accept(draft, distributions)
    replaced = verifier.replace(distributions, ops.ones_like(accepted))
    written = ops.where(accepted, draft, replaced)
    return [ops.convert_to_numpy(x) for x in (draft, written, *distributions)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_drafts_are_of_the_set_that_is_judged(sampler, dtype):
    """Where all tokens tie, the backends' top-k keep different ones."""
    tied = _rows([0.0, 0.0, 0.0, 0.0, -5.0], dtype)
    verifier = DraftVerifier(
        acceptance.Lossless(seed=2),
        SAMPLERS[sampler](),
        keras_hub.samplers.RandomSampler(seed=3),
    )
    draft, _, _, student = _write(verifier, tied, tied)
    frequencies.check(
        np.bincount(draft, minlength=5), np.exp(student[0].astype("float64"))
    )


@pytest.mark.parametrize("likeliest", [{0, 1}, {2, 3}])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_lossless_is_the_teacher_where_the_student_ties(sampler, likeliest):
    tied = _rows([0.0, 0.0, 0.0, 0.0])
    clear = _rows([1.0 + i / 4 if i in likeliest else -1.0 for i in range(4)])
    verifier = DraftVerifier(
        acceptance.Lossless(seed=2),
        SAMPLERS[sampler](),
        keras_hub.samplers.TopKSampler(2, seed=3),
    )
    _, written, teacher, _ = _write(verifier, tied, clear)
    assert set(written) == likeliest
    frequencies.check(np.bincount(written, minlength=4), np.exp(teacher[0]))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_lossless_is_the_first_of_the_likeliest_of_a_greedy_teacher(sampler):
    verifier = DraftVerifier(
        acceptance.Lossless(), SAMPLERS[sampler](), SAMPLERS["greedy"]()
    )
    teacher = _rows([0.0, 2.0, 2.0, 2.0])
    draft, written, logits = _write(verifier, _rows([0.0] * 4), teacher)
    assert sampler == "greedy" or len(set(draft)) > 1
    assert set(written) == {1}
    # No distributions, which take memory for each draft.
    np.testing.assert_array_equal(logits, teacher)


def test_what_both_cannot_draw_is_never_accepted():
    impossible = _rows([-1e30] * 3 + [0.0])
    rule = acceptance.Lossless(seed=1)
    for token in range(3):
        accepted = rule.accept(
            ops.full((ROWS,), token, "int32"), impossible, impossible
        )
        assert not ops.convert_to_numpy(accepted).any()


def test_a_diverged_student_leaves_the_teacher_as_it_is():
    verifier = DraftVerifier(
        acceptance.Lossless(seed=2),
        keras_hub.samplers.RandomSampler(seed=1),
        keras_hub.samplers.RandomSampler(seed=3),
    )
    clear = np.log([0.1, 0.2, 0.3, 0.4])
    _, written, _, _ = _write(verifier, _rows([np.nan] * 4), _rows(clear))
    frequencies.check(np.bincount(written, minlength=4), np.exp(clear))


def test_a_diverged_teacher_is_reported():
    teacher, student = (
        random_causal_lm("llama", seed, num_layers=1) for seed in (0, 1)
    )
    distiller = keras_skd.Distiller(teacher, student)
    batch = prompts([1, 2], 8)
    distiller.generate(batch)
    weight = teacher.backbone.get_layer("transformer_layer_0").weights[0]
    weight.assign(ops.full(weight.shape, np.nan))
    with pytest.raises(ValueError, match="teacher has diverged"):
        distiller.generate(batch)


@pytest.mark.parametrize(
    "temperature", [0, 0.0, 1e-40, -1.0, float("nan"), float("inf")]
)
@pytest.mark.parametrize("argument", ["student_sampler", "teacher_sampler"])
def test_temperatures_that_draw_nothing(argument, temperature):
    sampler = keras_hub.samplers.RandomSampler(temperature=temperature)
    with pytest.raises(ValueError) as info:
        keras_skd.rollouts.Speculative(**{argument: sampler})
    for words in (f"`{argument}`", "temperature", "'greedy'"):
        assert words in str(info.value)
