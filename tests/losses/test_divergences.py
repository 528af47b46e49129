import math

import keras
import numpy as np
import pytest
from keras import ops

from keras_skd import losses
from keras_skd._log_space import LOG_ZERO
from keras_skd._log_space import log_add_exp
from keras_skd._log_space import safe_log
from keras_skd._log_space import top_k_and_rest
from tests.support import numerics
from tests.support.numerics import kl


def _jsd(beta):
    def reference(p, q, constant_q):
        m = beta * p + (1 - beta) * q
        return beta * kl(p, m) + (1 - beta) * kl(q, m)

    return reference


# Each loss and its formula, from the probabilities of the teacher, the student,
# and the student again where the gradient treats it as a constant.
FORMULAS = {
    "forward_kl": (losses.ForwardKL, {}, lambda p, q, _: kl(p, q)),
    "reverse_kl": (losses.ReverseKL, {}, lambda p, q, _: kl(q, p)),
    "jsd_0.5": (losses.GeneralizedJSD, {}, _jsd(0.5)),
    "jsd_0.1": (losses.GeneralizedJSD, {"beta": 0.1}, _jsd(0.1)),
    "jsd_0": (losses.GeneralizedJSD, {"beta": 0}, lambda p, q, _: kl(p, q)),
    "jsd_1": (losses.GeneralizedJSD, {"beta": 1}, lambda p, q, _: kl(q, p)),
    "skew_kl": (
        losses.SkewKL,
        {},
        lambda p, q, _: kl(p, 0.1 * p + 0.9 * q),
    ),
    "skew_kl_0.4": (
        losses.SkewKL,
        {"alpha": 0.4},
        lambda p, q, _: kl(p, 0.4 * p + 0.6 * q),
    ),
    "skew_reverse_kl": (
        losses.SkewReverseKL,
        {},
        lambda p, q, _: kl(q, 0.9 * p + 0.1 * q),
    ),
    "skew_reverse_kl_constant": (
        losses.SkewReverseKL,
        {"alpha": 0.3, "stop_gradient_mixture": True},
        lambda p, q, constant: kl(q, 0.7 * p + 0.3 * constant),
    ),
    "total_variation": (
        losses.TotalVariation,
        {},
        lambda p, q, _: 0.5 * np.abs(p - q).sum(-1),
    ),
    "adaptive_kl": (losses.AdaptiveKL, {}, numerics.adaptive_kl),
    "adaptive_kl_0.8": (
        losses.AdaptiveKL,
        {"head_mass": 0.8},
        lambda p, q, constant: numerics.adaptive_kl(p, q, constant, 0.8),
    ),
}
each_formula = pytest.mark.parametrize(
    ("cls", "kwargs", "formula"), FORMULAS.values(), ids=FORMULAS
)
each_loss = pytest.mark.parametrize(
    "loss",
    [cls(**kwargs) for cls, kwargs, _ in FORMULAS.values()],
    ids=FORMULAS,
)


def _numpy(x):
    return ops.convert_to_numpy(x)


@each_formula
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_value_is_the_formula(cls, kwargs, formula, temperature):
    teacher, student = numerics.logits()
    values = cls(temperature=temperature, **kwargs).call(teacher, student)
    p = numerics.softmax(teacher / temperature)
    q = numerics.softmax(student / temperature)
    assert keras.backend.standardize_dtype(values.dtype) == "float32"
    np.testing.assert_allclose(
        _numpy(values), formula(p, q, q), rtol=1e-5, atol=1e-6
    )


@each_formula
def test_gradient_is_the_formula(cls, kwargs, formula, temperature=2.0):
    teacher, student = numerics.logits()
    loss = cls(temperature=temperature, reduction="sum", **kwargs)
    p = numerics.softmax(teacher / temperature)
    constant_q = numerics.softmax(student / temperature)
    expected = numerics.finite_differences(
        lambda x: formula(
            p, numerics.softmax(x / temperature), constant_q
        ).sum(),
        student,
    )
    gradient = numerics.gradient(lambda x: loss(teacher, x), student)
    assert np.abs(expected).max() > 1e-2
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=3e-6)


@each_formula
def test_top_k_targets_is_the_formula_of_the_groups(cls, kwargs, formula, k=3):
    teacher, student = numerics.logits()
    loss = cls(top_k_targets=k, reduction="sum", **kwargs)
    p = numerics.softmax(teacher)

    def reference(x, constant=student):
        groups_p, groups_q = numerics.top_k_and_rest(p, numerics.softmax(x), k)
        _, constant_q = numerics.top_k_and_rest(
            p, numerics.softmax(constant), k
        )
        return formula(groups_p, groups_q, constant_q)

    np.testing.assert_allclose(
        _numpy(loss.call(teacher, student)),
        reference(student),
        rtol=1e-5,
        atol=1e-6,
    )
    expected = numerics.finite_differences(
        lambda x: reference(x).sum(), student
    )
    gradient = numerics.gradient(lambda x: loss(teacher, x), student)
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=3e-6)


@pytest.mark.parametrize("k", [7, 8, 1000])
def test_top_k_targets_of_the_whole_vocabulary_changes_nothing(k):
    teacher, student = numerics.logits()
    np.testing.assert_array_equal(
        _numpy(losses.ForwardKL(top_k_targets=k).call(teacher, student)),
        _numpy(losses.ForwardKL().call(teacher, student)),
    )


def test_top_k_targets_loses_nothing_where_tokens_tie():
    _, student = numerics.logits()
    teacher = np.zeros_like(student)
    groups = top_k_and_rest(
        ops.log_softmax(teacher), ops.log_softmax(student), 2
    )
    for log_probs in groups:
        assert log_probs.shape == (2, 4, 3)
        np.testing.assert_allclose(
            _numpy(ops.sum(ops.exp(log_probs), axis=-1)), 1.0, rtol=1e-5
        )


def test_top_k_targets_has_a_gradient_however_confident_the_models():
    # 1 - sum(q[top]) is zero in float32, and the student still wrong about it.
    teacher = np.zeros((2, 4, 7), "float32")
    student = np.zeros((2, 4, 7), "float32")
    teacher[..., 0], student[..., 0] = 5.0, 50.0
    loss = losses.ForwardKL(top_k_targets=3, reduction="sum")
    gradient = numerics.gradient(lambda x: loss(teacher, x), student)
    rest = 1 - numerics.softmax(teacher)[..., 0]
    np.testing.assert_allclose(gradient[..., 0], rest, rtol=1e-4)


@each_loss
def test_equal_models_are_at_rest(loss):
    logits, _ = numerics.logits()
    np.testing.assert_allclose(_numpy(loss.call(logits, logits)), 0, atol=1e-6)
    gradient = numerics.gradient(lambda x: loss(logits, x), logits)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


@each_loss
def test_different_models_are_apart(loss):
    teacher, student = numerics.logits()
    assert _numpy(loss.call(teacher, student)).min() > 1e-3
    # A shift of all logits changes nothing.
    np.testing.assert_allclose(
        _numpy(loss.call(teacher, teacher + 3.0)), 0, atol=1e-6
    )


@pytest.mark.parametrize(
    ("loss", "bound"),
    [
        (losses.GeneralizedJSD(), math.log(2)),
        (losses.SkewKL(alpha=0.1), -math.log(0.1)),
        (losses.SkewReverseKL(alpha=0.1), -math.log(0.1)),
        (losses.TotalVariation(), 1.0),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_bounds_are_met_by_models_that_share_no_token(loss, bound):
    teacher = np.array([[100.0, -100.0], [1.0, 0.0]], "float32")
    student = np.array([[-100.0, 100.0], [0.0, 1.0]], "float32")
    disjoint, overlapping = _numpy(loss.call(teacher, student))
    np.testing.assert_allclose(disjoint, bound, rtol=1e-5)
    assert overlapping < 0.9 * bound


# Losses of a mixture whose parts are equal, for models that give two tokens 0.9
# and 0.1 of their probability, and 0.1 and 0.9: formula and gradient.
TIES = {
    "skew_kl": (
        losses.SkewKL(0.1),
        lambda p, q: kl(p, 0.1 * p + 0.9 * q),
        [-0.3951, 0.3951],
    ),
    "jsd": (
        losses.GeneralizedJSD(0.1),
        lambda p, q: _jsd(0.1)(p, q, None),
        [-0.0552, 0.0552],
    ),
}


@pytest.mark.parametrize("name", TIES)
def test_gradient_where_the_parts_of_a_mixture_tie(name):
    loss, formula, expected = TIES[name]
    teacher = np.tile(np.log([0.9, 0.1]), (2, 4, 1)).astype("float32")
    student = np.tile(np.log([0.1, 0.9]), (2, 4, 1)).astype("float32")
    gradient = numerics.gradient(
        lambda x: ops.sum(loss.call(teacher, x)), student
    )
    right = numerics.finite_differences(
        lambda x: formula(numerics.softmax(teacher), numerics.softmax(x)).sum(),
        student,
    )
    np.testing.assert_allclose(gradient, right, rtol=1e-3)
    np.testing.assert_allclose(gradient[0, 0], expected, atol=1e-4)


def test_log_add_exp_and_its_gradient():
    x = np.array([0, -1, LOG_ZERO, LOG_ZERO, -50, -3], "float32")
    y = np.array([0, -1, LOG_ZERO, -2, -1, -50], "float32")
    np.testing.assert_allclose(
        _numpy(log_add_exp(ops.array(x), ops.array(y))),
        np.logaddexp(x.astype("float64"), y),
        rtol=1e-6,
    )
    for own, other in ((x, y), (y, x)):
        gradient = numerics.gradient(
            lambda a, other=other: ops.sum(log_add_exp(a, ops.array(other))),
            own,
        )
        expected = 1 / (
            1 + np.exp(np.minimum(other.astype("float64") - own, 700))
        )
        np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-12)


def test_safe_log_and_its_gradient():
    p = np.array([0, 1e-30, 0.5, 1], "float32")
    np.testing.assert_allclose(
        _numpy(safe_log(ops.array(p))),
        [LOG_ZERO, np.log(1e-30), np.log(0.5), 0],
        rtol=1e-6,
    )
    gradient = numerics.gradient(lambda x: ops.sum(safe_log(x)), p)
    np.testing.assert_allclose(gradient, [0, 1e30, 2, 1], rtol=1e-5)


def test_skew_losses_at_alpha_0_are_the_plain_divergences():
    teacher, student = numerics.logits()
    for plain, skewed in (
        (losses.ForwardKL(), losses.SkewKL),
        (losses.ReverseKL(), losses.SkewReverseKL),
    ):
        expected = _numpy(plain.call(teacher, student))
        np.testing.assert_allclose(
            _numpy(skewed(alpha=0).call(teacher, student)), expected, rtol=1e-6
        )
        far = np.abs(
            _numpy(skewed(alpha=1e-1).call(teacher, student)) - expected
        )
        near = np.abs(
            _numpy(skewed(alpha=1e-4).call(teacher, student)) - expected
        )
        assert (near < 0.05 * far).all()
        plain.reduction = "sum"
        loss = skewed(alpha=0, reduction="sum")
        np.testing.assert_allclose(
            numerics.gradient(lambda x, loss=loss: loss(teacher, x), student),
            numerics.gradient(lambda x, loss=plain: loss(teacher, x), student),
            atol=1e-6,
        )


def test_generalized_jsd_has_beta_for_the_teacher():
    teacher, student = numerics.logits()
    values = _numpy(losses.GeneralizedJSD(beta=0.2).call(teacher, student))
    swapped = _numpy(losses.GeneralizedJSD(beta=0.8).call(student, teacher))
    np.testing.assert_allclose(values, swapped, rtol=1e-5)
    # The convention of other libraries, unlike this one.
    other = _numpy(losses.GeneralizedJSD(beta=0.8).call(teacher, student))
    assert np.abs(values - other).max() > 1e-2


def test_generalized_jsd_jumps_at_its_ends():
    teacher, student = numerics.logits()
    for end, inside in ((0, 1e-3), (1, 1 - 1e-3)):
        at_end = _numpy(losses.GeneralizedJSD(end).call(teacher, student))
        near = _numpy(losses.GeneralizedJSD(inside).call(teacher, student))
        np.testing.assert_allclose(near / 1e-3, at_end, rtol=0.1)


def test_constant_mixture_changes_the_gradient_and_not_the_value():
    teacher, student = numerics.logits()
    moving = losses.SkewReverseKL(alpha=0.3)
    constant = losses.SkewReverseKL(alpha=0.3, stop_gradient_mixture=True)
    np.testing.assert_array_equal(
        _numpy(moving(teacher, student)), _numpy(constant(teacher, student))
    )
    moving = numerics.gradient(lambda x: moving(teacher, x), student)
    constant = numerics.gradient(lambda x: constant(teacher, x), student)
    assert np.abs(moving - constant).max() > 1e-3


def test_adaptive_kl_by_hand():
    p = np.array([[0.6, 0.3, 0.1]], "float32")
    q = np.array([[0.2, 0.5, 0.3]], "float32")
    forward, reverse = kl(p, q), kl(q, p)
    # The gaps are 0.4, 0.2 and 0.2.
    for head_mass, share in ((0.5, 0.5), (0.61, 0.75), (0.95, 1.0)):
        loss = losses.AdaptiveKL(head_mass=head_mass)
        np.testing.assert_allclose(
            _numpy(loss.call(np.log(p), np.log(q))),
            share * forward + (1 - share) * reverse,
            rtol=1e-5,
        )


@each_loss
@pytest.mark.parametrize("top_k_targets", [None, 3])
def test_extreme_logits_stay_finite(loss, top_k_targets):
    loss = type(loss).from_config(
        loss.get_config() | {"top_k_targets": top_k_targets}
    )
    rng = np.random.default_rng(0)
    teacher, student = rng.choice([-1e4, 0, 1e4], (2, 2, 4, 7))
    assert np.isfinite(_numpy(loss.call(teacher, student))).all()
    gradient = numerics.gradient(lambda x: loss(teacher, x), student)
    assert np.isfinite(gradient).all()


def test_extreme_logits_have_the_right_value():
    teacher = np.array([[1e4, 0, -1e4]], "float32")
    student = np.array([[-1e4, 0, 1e4]], "float32")
    values = losses.ForwardKL().call(teacher, student)
    np.testing.assert_allclose(_numpy(values), 2e4, rtol=1e-6)


@each_loss
@pytest.mark.parametrize("absent", [-np.inf, np.finfo("float32").min])
def test_absent_vocabulary_entries_change_nothing(loss, absent):
    teacher, student = numerics.logits((2, 4, 5))
    padding = np.full((2, 4, 2), absent, "float32")
    padded_teacher = np.concatenate([teacher, padding], -1)
    padded_student = np.concatenate([student, padding], -1)
    np.testing.assert_allclose(
        _numpy(loss.call(padded_teacher, padded_student)),
        _numpy(loss.call(teacher, student)),
        rtol=1e-5,
    )
    gradient = numerics.gradient(lambda x: loss(teacher, x), student)
    padded = numerics.gradient(
        lambda x: loss(padded_teacher, x), padded_student
    )
    np.testing.assert_allclose(padded[..., :5], gradient, rtol=1e-4, atol=1e-7)
    np.testing.assert_array_equal(padded[..., 5:], 0)


def test_a_token_the_student_holds_for_impossible_has_a_gradient():
    teacher = np.zeros((2, 4, 7), "float32")
    student = np.zeros((2, 4, 7), "float32")
    teacher[..., 0], student[..., 0] = 30.0, -30.0

    def keras_loss(x):
        return keras.losses.KLDivergence(reduction="sum")(
            ops.softmax(teacher), ops.softmax(x)
        )

    loss = losses.ForwardKL(reduction="sum")
    gradient = numerics.gradient(lambda x: loss(teacher, x), student)
    np.testing.assert_allclose(gradient[..., 0], -1.0, rtol=1e-5)
    # Keras' loss gives no gradient there.
    gradient = numerics.gradient(keras_loss, student)
    assert np.abs(gradient[..., 0]).max() < 1e-6


@each_loss
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_logits_are_computed_in_float32(loss, dtype):
    teacher, student = (ops.cast(x, dtype) for x in numerics.logits())
    values = loss.call(teacher, student)
    assert keras.backend.standardize_dtype(values.dtype) == "float32"
    expected = loss.call(
        ops.cast(teacher, "float32"), ops.cast(student, "float32")
    )
    np.testing.assert_array_equal(_numpy(values), _numpy(expected))


@each_loss
def test_no_gradient_reaches_the_teacher(loss):
    teacher, student = numerics.logits()
    gradient = numerics.gradient(
        lambda x: loss(x, student) + ops.sum(x), teacher
    )
    np.testing.assert_array_equal(gradient, 1.0)


def test_cross_entropy():
    _, logits = numerics.logits()
    token_ids = np.array([[0, 6, 3, 3], [2, 2, 5, 0]], "int32")
    for temperature in (1.0, 2.0):
        loss = losses.CrossEntropy(temperature=temperature, reduction="sum")
        q = numerics.softmax(logits / temperature)
        one_hot = np.eye(7)[token_ids]
        np.testing.assert_allclose(
            _numpy(loss.call(token_ids, logits)),
            -np.log((q * one_hot).sum(-1)),
            rtol=1e-5,
        )
        gradient = numerics.gradient(
            lambda x, loss=loss: loss(token_ids, x), logits
        )
        np.testing.assert_allclose(
            gradient, (q - one_hot) / temperature, atol=1e-6
        )


def test_cross_entropy_stays_finite():
    loss = losses.CrossEntropy(reduction="sum")
    logits = np.zeros((2, 4, 7), "float32")
    logits[..., :3] = 1e4, -1e4, -np.inf
    token_ids = np.ones((2, 4), "int32")
    np.testing.assert_allclose(_numpy(loss.call(token_ids, logits)), 2e4)
    gradient = numerics.gradient(lambda x: loss(token_ids, x), logits)
    np.testing.assert_allclose(gradient[0, 0], [1, -1, 0, 0, 0, 0, 0])


@pytest.mark.parametrize(
    ("base", "method"),
    [
        (losses.Divergence, "divergence"),
        (losses.DistillationLoss, "compute_values"),
    ],
)
def test_base_classes_name_what_is_missing(base, method):
    class Nothing(base):
        pass

    with pytest.raises(NotImplementedError, match=f"Nothing.*{method}"):
        Nothing().call(*numerics.logits())


@pytest.mark.parametrize(
    "shapes", [((2, 3, 7), (2, 3, 8)), ((2, 3, 7), (2, 4, 7)), ((3, 7), (7,))]
)
def test_logits_of_different_shapes_are_refused(shapes):
    teacher, student = (np.zeros(shape, "float32") for shape in shapes)
    with pytest.raises(ValueError) as error:
        losses.ForwardKL().call(teacher, student)
    assert all(str(shape) in str(error.value) for shape in shapes)
