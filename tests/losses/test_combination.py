import numpy as np
import pytest
from keras import ops

from keras_skd import losses
from tests.support import numerics

TOKEN_IDS = np.array([[1, 5, 0, 2], [3, 3, 6, 0]], "int32")
SOURCES = np.array([[2, 3, 4, 0], [3, 2, 0, 0]], "int32")


def _numpy(x):
    return ops.convert_to_numpy(x)


def test_weighted_sum():
    teacher, student = numerics.logits()
    forward = losses.ForwardKL(temperature=2.0)
    loss = losses.WeightedSum(
        [forward, "reverse_kl", losses.CrossEntropy], weights=[0.5, 2, -0.1]
    )
    values = loss.position_values(teacher, student, TOKEN_IDS)
    expected = (
        0.5 * _numpy(forward.call(teacher, student))
        + 2 * _numpy(losses.ReverseKL().call(teacher, student))
        - 0.1 * _numpy(losses.CrossEntropy().call(TOKEN_IDS, student))
    )
    np.testing.assert_allclose(_numpy(values), expected, rtol=1e-5)
    np.testing.assert_allclose(
        _numpy(loss.reduce(values, SOURCES > 1)),
        (expected[0, :3].mean() + expected[1, :2].mean()) / 2,
        rtol=1e-5,
    )


def test_weighted_sum_has_its_own_reduction():
    teacher, student = numerics.logits()
    loss = losses.WeightedSum(
        [losses.ForwardKL(reduction="none")], reduction="sum"
    )
    expected = _numpy(losses.ForwardKL(reduction="sum")(teacher, student))
    np.testing.assert_allclose(
        _numpy(loss(teacher, student)), expected, rtol=1e-6
    )


def test_weighted_sum_has_weights_of_1_and_the_gradient_of_a_sum():
    teacher, student = numerics.logits()
    parts = [losses.ForwardKL(), losses.SkewReverseKL()]
    gradients = [
        numerics.gradient(lambda x, loss=loss: loss(teacher, x), student)
        for loss in (*parts, losses.WeightedSum(parts))
    ]
    np.testing.assert_allclose(
        gradients[0] + gradients[1], gradients[2], atol=1e-6
    )


def test_weighted_sum_with_source_weights_within_and_without():
    teacher, student = numerics.logits()
    inner = losses.ForwardKL(source_weights={"student": 0})
    loss = losses.WeightedSum(
        [inner, "forward_kl"], source_weights={"teacher": 10}
    )
    values = loss.position_values(teacher, student, sources=SOURCES)
    factors = np.array([[1, 20, 2, 0], [20, 1, 0, 0]])
    np.testing.assert_allclose(
        _numpy(values),
        factors * _numpy(losses.ForwardKL().call(teacher, student)),
        rtol=1e-5,
    )


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"losses": []}, ValueError, "`losses`.*at least one"),
        ({"losses": "forward_kl"}, ValueError, "`losses`.*'forward_kl'"),
        ({"losses": ["forward_k"]}, ValueError, "forward_kl"),
        ({"losses": [3]}, TypeError, "3"),
        (
            {"losses": ["forward_kl"], "weights": [1, 2]},
            ValueError,
            r"`weights`.*\[1, 2\].*1 loss",
        ),
        (
            {"losses": ["forward_kl"], "weights": ["1"]},
            TypeError,
            r"weights\[0\].*'1'",
        ),
        (
            {"losses": ["forward_kl"], "weights": [float("nan")]},
            ValueError,
            r"weights\[0\].*nan",
        ),
    ],
)
def test_weighted_sum_refuses(kwargs, error, match):
    with pytest.raises(error, match=match):
        losses.WeightedSum(**kwargs)


def test_by_source():
    teacher, student = numerics.logits()
    loss = losses.BySource(
        student=losses.ForwardKL(),
        teacher="cross_entropy",
        data=losses.SkewKL(alpha=0.3),
    )
    values = loss.position_values(teacher, student, TOKEN_IDS, SOURCES)
    forward = _numpy(losses.ForwardKL().call(teacher, student))
    entropy = _numpy(losses.CrossEntropy().call(TOKEN_IDS, student))
    skewed = _numpy(losses.SkewKL(alpha=0.3).call(teacher, student))
    expected = np.array(
        [
            [forward[0, 0], entropy[0, 1], skewed[0, 2], 0],
            [entropy[1, 0], forward[1, 1], 0, 0],
        ]
    )
    np.testing.assert_allclose(_numpy(values), expected, rtol=1e-6)


def test_by_source_without_a_loss_for_some():
    teacher, student = numerics.logits()
    loss = losses.BySource(
        student="reverse_kl", source_weights={"student": 0.5}
    )

    def reduced(x):
        values = loss.position_values(teacher, x, sources=SOURCES)
        return loss.reduce(values, SOURCES > 1)

    reverse = _numpy(losses.ReverseKL().call(teacher, student))
    # The other positions of the response still count in its mean.
    rows = (0.5 * reverse[0, 0] + reverse[0, 2]) / 3, 0.5 * reverse[1, 1] / 2
    np.testing.assert_allclose(
        _numpy(reduced(student)), np.mean(rows), rtol=1e-5
    )
    gradient = numerics.gradient(reduced, student)
    has_loss = (SOURCES == 2) | (SOURCES == 4)
    np.testing.assert_array_equal(gradient[~has_loss], 0)
    assert (np.abs(gradient[has_loss]).max(-1) > 1e-3).all()


@pytest.mark.parametrize(
    ("given", "default"),
    [
        ({"student": "reverse_kl", "teacher": "forward_kl"}, "forward_kl"),
        ({"student": "reverse_kl"}, "reverse_kl"),
        ({"teacher": "forward_kl"}, "forward_kl"),
        ({"student": "reverse_kl", "data": "skew_kl"}, "skew_kl"),
    ],
)
def test_by_source_always_has_a_loss_for_data(given, default):
    """Otherwise the loss of a validation set would be 0."""
    teacher, student = numerics.logits()
    loss = losses.BySource(**given)
    for restored in (loss, losses.deserialize(losses.serialize(loss))):
        values = _numpy(
            restored.position_values(teacher, student, TOKEN_IDS, SOURCES)
        )
        expected = _numpy(losses.get(default).call(teacher, student))
        assert values[0, 2] == pytest.approx(expected[0, 2], rel=1e-6)
        # The other positions are unchanged.
        assert (values[0, 0] == 0) == ("student" not in given)
        assert (values[0, 1] == 0) == ("teacher" not in given)


def test_by_source_refuses():
    with pytest.raises(ValueError, match="at least one"):
        losses.BySource()
    with pytest.raises(TypeError, match="7"):
        losses.BySource(student=7)
    with pytest.raises(ValueError, match="sources"):
        losses.BySource(student="forward_kl")(*numerics.logits())


def test_cross_entropy_refuses():
    teacher, student = numerics.logits()
    with pytest.raises(ValueError, match="token_ids"):
        losses.CrossEntropy().position_values(teacher, student)
    with pytest.raises(ValueError, match=r"\(2, 4, 7\) and \(2, 4, 7\)"):
        losses.CrossEntropy()(teacher, student)
    with pytest.raises(ValueError, match="token_ids"):
        losses.WeightedSum(["forward_kl", "cross_entropy"])(teacher, student)


def _distillm2():
    return losses.DistiLLM2(steps_per_epoch=1, epochs=1)


@pytest.mark.parametrize(
    ("loss", "teacher", "token_log_probs"),
    [
        (losses.ForwardKL(), True, False),
        (losses.CrossEntropy(), False, False),
        (_distillm2(), True, True),
        (losses.WeightedSum(["cross_entropy"]), False, False),
        (losses.WeightedSum(["cross_entropy", "skew_kl"]), True, False),
        (losses.WeightedSum(["cross_entropy", _distillm2()]), True, True),
        (losses.BySource(student="cross_entropy"), False, False),
        (losses.BySource(student="cross_entropy", data="skew_kl"), True, False),
        (losses.BySource(teacher=_distillm2()), True, True),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_what_a_loss_needs(loss, teacher, token_log_probs):
    assert loss.needs_teacher is teacher
    assert loss.needs_token_log_probs is token_log_probs


@pytest.mark.parametrize(
    "loss",
    [
        losses.CrossEntropy(),
        losses.WeightedSum(["cross_entropy"]),
        losses.BySource(student="cross_entropy", teacher="cross_entropy"),
    ],
    ids=lambda loss: loss.name,
)
def test_loss_that_needs_no_teacher_takes_none(loss):
    _, student = numerics.logits()
    values = loss.position_values(None, student, TOKEN_IDS, SOURCES)
    expected = _numpy(losses.CrossEntropy().call(TOKEN_IDS, student))
    np.testing.assert_allclose(_numpy(values)[0, :2], expected[0, :2])
