"""The loss a few positions at a time, against the loss of all at once."""

import functools

import keras
import numpy as np
import pytest
from keras import ops

import keras_skd
from keras_skd import losses
from keras_skd._backend import value_and_gradients
from keras_skd._objective.chunked_loss import ChunkedLoss
from keras_skd.decoding import CachedCausalLM
from tests.support import writing
from tests.support.causal_lms import causal_lm

STEP = 5
# The second epoch, in which both curricula are active.
DISTILLM2 = losses.DistiLLM2(steps_per_epoch=4, epochs=8, beta=0.1)
LENGTH = 10
# Rows written by student and teacher, by one of them, by the data, or by none.
SOURCES = np.array(
    [
        [1, 1, 1, 2, 3, 2, 2, 0, 0, 0],
        [1, 2, 2, 2, 2, 2, 2, 2, 3, 3],
        [1, 1, 1, 1, 1, 1, 1, 1, 1, 3],
        [1, 1, 4, 4, 4, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0, 0, 0],
    ],
    "int32",
)
# One position, part of a response, more than all positions, and the default.
CHUNK_SIZES = (1, 4, 1000, None)


def _rollout(sources=SOURCES):
    token_ids = np.random.default_rng(1).integers(0, 32, sources.shape)
    return {
        "sources": ops.convert_to_tensor(sources),
        "token_ids": ops.convert_to_tensor(token_ids.astype("int32")),
        "response_mask": ops.convert_to_tensor(sources > 1),
    }


@pytest.fixture(scope="module")
def models():
    made = {}

    def make(architecture):
        if architecture not in made:
            made[architecture] = [
                CachedCausalLM(causal_lm(architecture, seed=seed, num_layers=1))
                for seed in (1, 2)
            ]
        return made[architecture]

    return make


def _whole(loss, teacher_logits, student_logits, rollout):
    """The loss from the logits of the whole batch."""
    mask, sources, token_ids = (
        rollout[key][:, 1:] for key in ("response_mask", "sources", "token_ids")
    )
    student_logits, teacher_logits = (
        x[:, :-1] for x in (student_logits, teacher_logits)
    )

    def at_tokens(logits):
        log_probs = ops.log_softmax(ops.stop_gradient(logits))
        return ops.take_along_axis(log_probs, token_ids[..., None], 2)[..., 0]

    log_probs = {}
    if loss.needs_token_log_probs:
        log_probs["teacher_token_log_probs"] = at_tokens(teacher_logits)
        log_probs["student_token_log_probs"] = at_tokens(student_logits)
    context = loss.prepare(mask, sources, STEP, **log_probs)
    values = loss.position_values(
        teacher_logits, student_logits, token_ids, sources, context
    )
    return loss.reduce(values, mask)


def _compare(loss, teacher, student, rollout, chunk_sizes=CHUNK_SIZES):
    """Values and gradients, in the student's states and in its head."""
    head = [v for v in student.head_variables if v.trainable]
    variables = teacher.head_variables + student.head_variables
    rng = np.random.default_rng(0)
    states = [
        ops.convert_to_tensor(
            rng.normal(size=(*SOURCES.shape, m.hidden_dim)).astype("float32")
        )
        for m in (teacher, student)
    ]

    def differentiated(function, states, weights):
        def scaled(states, *weights):
            mapping = [(v, v[...]) for v in variables]
            with keras.StatelessScope(mapping + list(zip(head, weights))):
                # Losses are scaled, in mixed precision.
                return 3.0 * function(states)

        return value_and_gradients(scaled, [states, *weights])

    @writing.compiled
    def run(teacher_states, states, *weights):
        whole = differentiated(
            lambda states: _whole(
                loss,
                teacher.logits(teacher_states),
                student.logits(states),
                rollout,
            ),
            states,
            weights,
        )
        chunked = []
        for chunk_size in chunk_sizes:
            function = functools.partial(
                ChunkedLoss(loss, teacher, student, chunk_size),
                teacher_hidden_states=teacher_states,
                rollout=rollout,
                training_step=STEP,
            )
            # Evaluation computes no gradients.
            evaluated = function(states, training=False)
            chunked.append(
                (*differentiated(function, states, weights), evaluated)
            )
        return whole, chunked

    results = run(*states, *[ops.convert_to_tensor(v) for v in head])
    return keras.tree.map_structure(ops.convert_to_numpy, results)


def _assert_equal(whole, chunked):
    value, gradients = whole
    for other, other_gradients, evaluated in chunked:
        np.testing.assert_allclose(other, value, rtol=1e-5)
        np.testing.assert_allclose(3 * evaluated, value, rtol=1e-5)
        for a, b in zip(gradients, other_gradients, strict=True):
            np.testing.assert_allclose(b, a, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "loss",
    [
        losses.CrossEntropy(),
        DISTILLM2,
        losses.BySource(
            student=losses.ReverseKL(temperature=2.0),
            teacher="cross_entropy",
            reduction="token_mean",
        ),
        losses.WeightedSum(["total_variation", DISTILLM2], weights=[1.0, 0.5]),
        losses.SkewKL(top_k_targets=5, source_weights={"teacher": 2.0}),
        losses.AdaptiveKL(reduction="sum"),
        losses.WeightedSum(
            [
                losses.ForwardKL(dtype="float64"),
                losses.DistiLLM2(4, epochs=8, beta=0.1, dtype="float64"),
            ],
            name="float64",
        ),
    ],
    ids=lambda loss: loss.name,
)
def test_losses(models, loss):
    teacher, student = models("llama")
    whole, chunked = _compare(loss, teacher, student, _rollout(), (1, 4))
    _assert_equal(whole, chunked)
    (_, (states, *_)) = whole
    # The position before a token of a response, and no other.
    predicts = np.pad(SOURCES[:, 1:] > 1, [(0, 0), (0, 1)])
    np.testing.assert_array_equal(np.abs(states).max(-1) > 0, predicts)


# Untied heads, tied heads, with a soft cap, and inside the backbone, where no
# head is left to differentiate.
HEADS = {"llama": 1, "llama3": 1, "gemma2": 1, "rwkv7": 0}


@pytest.mark.parametrize("architecture", HEADS)
def test_heads(models, architecture):
    teacher, student = models(architecture)
    loss = losses.ForwardKL()
    whole, chunked = _compare(loss, teacher, student, _rollout())
    _assert_equal(whole, chunked)
    _, (_, *weights) = whole
    changed = [np.abs(w).max() > 1e-4 for w in weights]
    assert sum(changed) == HEADS[architecture]


def test_no_position_at_all(models):
    teacher, student = models("llama")
    rollout = _rollout(np.minimum(SOURCES, 1))
    _, chunked = _compare(DISTILLM2, teacher, student, rollout, (4, None))
    for value, gradients, evaluated in chunked:
        assert value == evaluated == 0
        for gradient in gradients:
            np.testing.assert_array_equal(gradient, 0)


def test_what_the_teacher_read_need_not_be_read_again():
    """The states from verification equal those of a pass over the result."""
    teacher = writing.random_causal_lm("llama", seed=1)
    student = writing.random_causal_lm("llama", seed=2, num_layers=1)
    rollout = keras_skd.rollouts.Speculative(
        acceptance=keras_skd.acceptance.TopK(8)
    )
    distiller = keras_skd.Distiller(
        teacher, student, rollout, stop_token_ids=(3, 4), seed=1
    )
    prompts = writing.prompts([2, 9, 4, 1, 16, 15, 3, 5], 17)
    x = {k: ops.convert_to_tensor(v) for k, v in prompts.items()}
    written = distiller.rollout_function(x)
    sources = ops.convert_to_numpy(written["sources"])
    assert {2, 3} <= set(sources.ravel())
    lengths = (sources > 0).sum(1)
    assert (lengths == 17).any() and (lengths < 17).any()
    states = teacher.backbone(
        {k: written[k] for k in ("token_ids", "padding_mask")}
    )
    predicts = sources[:, 1:] > 1
    a, b = (
        ops.convert_to_numpy(x)[:, :-1][predicts]
        for x in (written["teacher_hidden_states"], states)
    )
    np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.skipif(
    keras.config.backend() != "jax",
    reason="only XLA says beforehand what it will allocate",
)
def test_memory():
    import jax

    positions, size = 256, 8192
    teacher, student = (
        CachedCausalLM(causal_lm(seed=i, num_layers=1, vocabulary_size=size))
        for i in range(2)
    )
    states = jax.numpy.ones((2, positions // 2, student.hidden_dim))
    sources = np.full((2, positions // 2), 2, "int32")

    def temporary(function):
        compiled = jax.jit(jax.grad(function)).lower(states).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    loss = losses.ForwardKL()
    chunked = ChunkedLoss(loss, teacher, student, chunk_size=8)
    of_logits = positions * size * 4
    assert (
        temporary(lambda x: chunked(x, states, _rollout(sources)))
        < 0.5 * of_logits
    )
    assert (
        temporary(
            lambda x: _whole(
                loss,
                teacher.logits(states),
                student.logits(x),
                _rollout(sources),
            )
        )
        > 2 * of_logits
    )
