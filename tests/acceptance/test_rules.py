"""The rules against their formulas in NumPy, and their replacements."""

import json

import keras
import keras_hub
import numpy as np
import pytest
from keras import ops

from keras_skd import acceptance
from keras_skd import rollouts
from keras_skd import schedules
from keras_skd.decoding._draft_verifier import DraftVerifier
from tests.support import frequencies

SIZE = 9


class Unlucky(keras_hub.samplers.RandomSampler):
    """Never draws token 7."""

    def get_next_token(self, probabilities):
        allowed = ops.arange(probabilities.shape[-1]) != 7
        return super().get_next_token(probabilities * allowed)


DRAWS = 20_000


def _logits(rows=40):
    return np.random.default_rng(0).normal(0, 2, (rows, SIZE)).astype("float32")


def _softmax(logits):
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


def _accepts(rule, logits, **kwargs):
    """Whether each token of the vocabulary would be accepted, in each row."""
    logits = np.asarray(logits, "float32")
    rows, size = logits.shape
    token_ids = np.broadcast_to(np.arange(size, dtype="int32"), (rows, size))
    logits = np.broadcast_to(logits[:, None], (rows, size, size))
    accepted = rule.accept(
        ops.convert_to_tensor(token_ids.copy()),
        ops.convert_to_tensor(logits.copy()),
        **kwargs,
    )
    assert accepted.shape == (rows, size)
    return ops.convert_to_numpy(accepted)


# The rules that look at the teacher alone. Each formula maps one row of float64
# probabilities to the accepted tokens.


def _top_k(p, k):
    return np.isin(np.arange(len(p)), np.argsort(-p)[: int(np.ceil(k))])


def _top_p(p, mass):
    order = np.argsort(-p)
    size = 1 + np.argmax(np.cumsum(p[order]) >= mass)
    return np.isin(np.arange(len(p)), order[:size])


def _floor(p, floor):
    return p >= floor


def _typical(p, epsilon, delta):
    entropy = -np.sum(p * np.log(p))
    return p > min(epsilon, delta * np.exp(-entropy))


@pytest.mark.parametrize(
    ("rule", "formula", "arguments"),
    [
        (acceptance.TopK, _top_k, [1]),
        (acceptance.TopK, _top_k, [4]),
        (acceptance.TopP, _top_p, [0.3]),
        (acceptance.TopP, _top_p, [0.9]),
        (acceptance.ProbabilityFloor, _floor, [0.05]),
        (acceptance.ProbabilityFloor, _floor, [0.5]),
        # The two terms of the minimum, each of them the smaller one.
        (acceptance.Typical, _typical, [0.1, 1.0]),
        (acceptance.Typical, _typical, [1.0, 0.3]),
    ],
)
def test_rule_is_the_formula(rule, formula, arguments):
    logits = _logits()
    expected = [formula(p, *arguments) for p in _softmax(logits.astype(float))]
    assert 0 < np.mean(expected) < 1
    np.testing.assert_array_equal(_accepts(rule(*arguments), logits), expected)
    # A schedule is a number that depends on the step.
    of_step = [schedules.Linear(0.9 * x, x, num_steps=4) for x in arguments]
    np.testing.assert_array_equal(
        _accepts(rule(*of_step), logits, training_step=4), expected
    )
    expected = [
        formula(p, *(0.95 * x for x in arguments))
        for p in _softmax(logits.astype(float))
    ]
    np.testing.assert_array_equal(
        _accepts(rule(*of_step), logits, training_step=2), expected
    )


HALVES = [0.5, 0.25, 0.125, 0.125]


@pytest.mark.parametrize(
    ("rule", "probabilities", "expected"),
    [
        # The token with which the mass reaches `p` is still in the nucleus.
        (acceptance.TopP(0.74), HALVES, [1, 1, 0, 0]),
        (acceptance.TopP(0.76), HALVES, [1, 1, 1, 1]),
        (acceptance.TopP(0.49), HALVES, [1, 0, 0, 0]),
        (acceptance.TopP(1e-6), HALVES, [1, 0, 0, 0]),
        (acceptance.TopP(1.0), HALVES, [1, 1, 1, 1]),
        # Equally likely tokens are accepted or rejected together.
        (acceptance.TopK(3), HALVES, [1, 1, 1, 1]),
        (acceptance.TopK(2), HALVES, [1, 1, 0, 0]),
        (acceptance.TopK(100), HALVES, [1, 1, 1, 1]),
        (acceptance.ProbabilityFloor(0.0), HALVES, [1, 1, 1, 1]),
        (acceptance.ProbabilityFloor(0.249), HALVES, [1, 1, 0, 0]),
        (acceptance.ProbabilityFloor(0.251), HALVES, [1, 0, 0, 0]),
        (acceptance.ProbabilityFloor(1.0), HALVES, [0, 0, 0, 0]),
        # A uniform teacher: exp(-H) = 1/4, and all tokens are accepted or none.
        (acceptance.Typical(1.0, 0.99), [0.25] * 4, [1, 1, 1, 1]),
        (acceptance.Typical(1.0, 1.0), [0.27, 0.23, 0.25, 0.25], [1, 0, 0, 0]),
        (acceptance.Typical(0.24, 1.0), [0.27, 0.23, 0.25, 0.25], [1, 0, 1, 1]),
        # An impossible token has no part in the entropy.
        (acceptance.Typical(1.0, 0.9), [0.5, 0.5, 0, 0], [1, 1, 0, 0]),
        (acceptance.ProbabilityFloor(0.4), [0.5, 0.5, 0, 0], [1, 1, 0, 0]),
        (acceptance.TopP(0.9), [0.5, 0.5, 0, 0], [1, 1, 0, 0]),
        (acceptance.TopK(2), [0.5, 0.5, 0, 0], [1, 1, 0, 0]),
    ],
)
def test_rule_by_hand(rule, probabilities, expected):
    with np.errstate(divide="ignore"):
        logits = np.log(probabilities)[None]
    np.testing.assert_array_equal(_accepts(rule, logits)[0], expected)


# The rules that compare distributions. The last token is impossible to the
# teacher, the one before to the student.

TEACHER = np.array([0.4, 0.05, 0.2, 0.15, 0.2, 0.0])
STUDENT = np.array([0.1, 0.4, 0.2, 0.2, 0.0, 0.1])


def _log(probabilities):
    with np.errstate(divide="ignore"):
        logs = np.maximum(np.log(probabilities), -1e30).astype("float32")
    return ops.convert_to_tensor(np.tile(logs, (DRAWS, 1)))


def _counts(token_ids):
    return np.bincount(ops.convert_to_numpy(token_ids), minlength=len(TEACHER))


RULES = {
    0.0: acceptance.Interpolated(0.0, seed=1),
    0.3: acceptance.Interpolated(0.3, seed=1),
    0.8: acceptance.Interpolated(schedules.Linear(0, 1, 10), seed=1),
    1.0: acceptance.Lossless(seed=1),
}


@pytest.mark.parametrize("gamma", RULES)
def test_chance_of_acceptance(gamma):
    rule = RULES[gamma]
    for token in np.flatnonzero(STUDENT):
        accepted = rule.accept(
            ops.full((DRAWS,), int(token), dtype="int32"),
            _log(TEACHER),
            _log(STUDENT),
            training_step=8,
        )
        ratio = min(1.0, TEACHER[token] / STUDENT[token])
        chance = 1 - gamma + gamma * ratio
        count = int(ops.convert_to_numpy(accepted).sum())
        frequencies.check([count, DRAWS - count], [chance, 1 - chance])


@pytest.mark.parametrize(
    ("teacher", "student", "expected"),
    [
        (TEACHER, STUDENT, np.maximum(TEACHER - STUDENT, 0)),
        (STUDENT, TEACHER, np.maximum(STUDENT - TEACHER, 0)),
        # Where no draft was rejected, the teacher's own distribution.
        (TEACHER, np.zeros(6), TEACHER),
        (TEACHER, TEACHER, TEACHER),
    ],
    ids=["residual", "the other way", "nobody drafted", "equal models"],
)
def test_replacement(teacher, student, expected):
    rule = acceptance.Lossless(seed=2)
    token_ids = rule.sample_replacement(_log(teacher), _log(student))
    frequencies.check(_counts(token_ids), expected)


@pytest.mark.parametrize("gamma", RULES)
def test_what_is_written_is_the_mixture(gamma):
    rule = RULES[gamma]
    drafted = np.random.default_rng(3).choice(6, DRAWS, p=STUDENT)
    drafted = ops.convert_to_tensor(drafted.astype("int32"))
    teacher, student = _log(TEACHER), _log(STUDENT)
    written = ops.where(
        rule.accept(drafted, teacher, student, training_step=8),
        drafted,
        rule.sample_replacement(teacher, student, training_step=8),
    )
    frequencies.check(_counts(written), (1 - gamma) * STUDENT + gamma * TEACHER)


@pytest.mark.parametrize(
    "sampler",
    [
        keras_hub.samplers.RandomSampler(temperature=0.7, seed=1),
        keras_hub.samplers.GreedySampler(),
        keras_hub.samplers.TopKSampler(k=3, temperature=2.0, seed=1),
        keras_hub.samplers.TopPSampler(p=0.6, seed=1),
        keras_hub.samplers.TopPSampler(p=0.9, k=2, seed=1),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_rules_see_what_the_samplers_draw_from(sampler):
    """A `DistributionRule` gets the distributions of both samplers."""
    logits = np.log(TEACHER[:5])[None].astype("float32")

    class Watch(acceptance.Interpolated):
        def accept(self, token_ids, teacher_logits, student_logits, **kwargs):
            self.seen = [
                ops.convert_to_numpy(x)
                for x in (teacher_logits, student_logits)
            ]
            return super().accept(
                token_ids, teacher_logits, student_logits, **kwargs
            )

    rule = Watch()
    greedy = keras_hub.samplers.GreedySampler()
    for i, samplers in enumerate([(greedy, sampler), (sampler, greedy)]):
        verifier = DraftVerifier(rule, *samplers)
        verifier.accept(
            ops.zeros((1,), "int32"), verifier.distributions(logits, logits)
        )
        expected = np.exp(rule.seen[i][0].astype("float64"))
        np.testing.assert_allclose(rule.seen[1 - i][0], [0] + [-1e30] * 4)
        drawn = sampler.get_next_token(
            sampler.compute_probabilities(np.tile(logits, (DRAWS, 1)))
        )
        frequencies.check(_counts(drawn)[:5], expected)


def test_seeds():
    def drawn(rule):
        accepted = rule.accept(
            ops.ones((50,), "int32"), _log(TEACHER)[:50], _log(STUDENT)[:50]
        )
        return ops.convert_to_numpy(accepted).tolist()

    one, other = acceptance.Interpolated(0.9), acceptance.Interpolated(0.9)
    one.set_seed(5)
    other.set_seed(5)
    first, second = drawn(one), drawn(one)
    assert first == drawn(other)
    assert first != second
    # A given seed is kept.
    mine = acceptance.Lossless(seed=5)
    mine.set_seed(6)
    same = acceptance.Lossless(seed=5)
    assert drawn(mine) == drawn(same)


NAMED = {
    "interpolated": acceptance.Interpolated(),
    "lossless": acceptance.Lossless(),
    "probability_floor": acceptance.ProbabilityFloor(),
    "top_k": acceptance.TopK(),
    "top_p": acceptance.TopP(),
    "typical": acceptance.Typical(),
}


@pytest.mark.parametrize("name", NAMED)
def test_names(name):
    rule = acceptance.get(name)
    assert type(rule) is type(NAMED[name])
    assert rule.get_config() == NAMED[name].get_config()
    assert acceptance.get(type(rule)).get_config() == rule.get_config()
    assert acceptance.get(rule) is rule


@pytest.mark.parametrize(
    ("rule", "config"),
    [
        (acceptance.TopK(7), {"k": 7}),
        (acceptance.TopP(0.5), {"p": 0.5}),
        (acceptance.ProbabilityFloor(0.5), {"floor": 0.5}),
        (acceptance.Typical(0.5, 0.25), {"epsilon": 0.5, "delta": 0.25}),
        (acceptance.Interpolated(0.5, seed=3), {"gamma": 0.5, "seed": 3}),
        (acceptance.Lossless(seed=3), {"seed": 3}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_config_round_trip(rule, config):
    assert rule.get_config() == config
    saved = json.loads(json.dumps(keras.saving.serialize_keras_object(rule)))
    for restored in (
        type(rule).from_config(config),
        acceptance.get(saved),
        keras.saving.deserialize_keras_object(saved),
    ):
        assert type(restored) is type(rule)
        assert restored.get_config() == config


@pytest.mark.parametrize(
    "make",
    [
        acceptance.TopK,
        acceptance.TopP,
        acceptance.ProbabilityFloor,
        acceptance.Typical,
        acceptance.Interpolated,
    ],
)
def test_config_round_trip_of_a_schedule(make):
    rule = make(schedules.Cosine(1, 0.5, num_steps=10))
    saved = json.loads(json.dumps(keras.saving.serialize_keras_object(rule)))
    restored = keras.saving.deserialize_keras_object(saved)
    value = getattr(restored, next(iter(rule.get_config())))
    assert isinstance(value, schedules.Cosine)
    assert value.get_config() == {"initial": 1, "final": 0.5, "num_steps": 10}


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: acceptance.TopP(0), ValueError, ["`p`", "(0, 1]", "0"]),
        (lambda: acceptance.TopP(1.01), ValueError, ["`p`", "1.01"]),
        (lambda: acceptance.TopP("0.9"), TypeError, ["`p`", "'0.9'", "str"]),
        (
            lambda: acceptance.ProbabilityFloor(1.5),
            ValueError,
            ["`floor`", "[0, 1]", "1.5"],
        ),
        (
            lambda: acceptance.ProbabilityFloor(-0.1),
            ValueError,
            ["`floor`", "-0.1"],
        ),
        (
            lambda: acceptance.ProbabilityFloor(None),
            TypeError,
            ["`floor`", "None"],
        ),
        (
            lambda: acceptance.Typical(epsilon=2),
            ValueError,
            ["`epsilon`", "[0, 1]", "2"],
        ),
        (
            lambda: acceptance.Typical(delta=-1),
            ValueError,
            ["`delta`", "[0, 1]", "-1"],
        ),
        (
            lambda: acceptance.Interpolated(gamma=1.1),
            ValueError,
            ["`gamma`", "[0, 1]", "1.1"],
        ),
        (
            lambda: acceptance.Interpolated(gamma=-0.1),
            ValueError,
            ["`gamma`", "-0.1"],
        ),
        (
            lambda: acceptance.Interpolated(gamma=True),
            TypeError,
            ["`gamma`", "bool"],
        ),
        (
            lambda: acceptance.TopP(float("nan")),
            ValueError,
            ["`p`", "nan"],
        ),
        (
            lambda: rollouts.Speculative(
                acceptance.Lossless(), student_sampler=Unlucky()
            ),
            ValueError,
            ["`student_sampler`", "'top_p'", "Lossless", "Unlucky"],
        ),
        (lambda: acceptance.get("topk"), ValueError, ["'topk'", "'top_k'"]),
        (lambda: acceptance.get(25), TypeError, ["25", "int"]),
    ],
)
def test_bad_input(make, error, words):
    with pytest.raises(error) as info:
        make()
    for word in words:
        assert word in str(info.value), str(info.value)
