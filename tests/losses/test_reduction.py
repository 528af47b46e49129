import numpy as np
import pytest
from keras import ops

from keras_skd import losses
from tests.support import numerics

VALUES = np.array([[1, 2, 3, 9], [4, 9, 9, 9]], "float32")
MASK = np.array([[1, 1, 1, 0], [1, 0, 0, 0]], "int32")
REDUCED = {"sequence_mean": (2 + 4) / 2, "token_mean": 10 / 4, "sum": 10}


def _numpy(x):
    return ops.convert_to_numpy(x)


@pytest.mark.parametrize("reduction", REDUCED)
@pytest.mark.parametrize("dtype", ["bool", "int32", "float32"])
def test_unequal_lengths(reduction, dtype):
    loss = losses.ForwardKL(reduction=reduction)
    reduced = loss.reduce(VALUES, MASK.astype(dtype))
    assert reduced.shape == ()
    np.testing.assert_allclose(_numpy(reduced), REDUCED[reduction])


@pytest.mark.parametrize("reduction", ["none", None])
def test_no_reduction(reduction):
    loss = losses.ForwardKL(reduction=reduction)
    np.testing.assert_allclose(_numpy(loss.reduce(VALUES, MASK)), VALUES * MASK)


def test_weights_are_more_than_a_mask():
    weights = np.array([[2, 1, 0, 0], [0, 0, 0.5, 0]], "float32")
    expected = {
        "sequence_mean": (4 / 3 + 4.5 / 1) / 2,
        "token_mean": 8.5 / 3.5,
        "sum": 8.5,
    }
    for reduction, value in expected.items():
        loss = losses.ForwardKL(reduction=reduction)
        np.testing.assert_allclose(
            _numpy(loss.reduce(VALUES, weights)), value, rtol=1e-6
        )


def test_without_weights_every_position_counts():
    for reduction in ("sequence_mean", "token_mean"):
        loss = losses.ForwardKL(reduction=reduction)
        np.testing.assert_allclose(_numpy(loss.reduce(VALUES)), VALUES.mean())


@pytest.mark.parametrize("reduction", REDUCED)
def test_reduce_is_the_sum_with_position_weights(reduction):
    loss = losses.ForwardKL(reduction=reduction)
    weights = loss.position_weights(MASK)
    np.testing.assert_allclose(
        _numpy(ops.sum(weights * ops.array(VALUES))),
        REDUCED[reduction],
        rtol=1e-6,
    )


@pytest.mark.parametrize("reduction", REDUCED)
def test_call_is_reduce_of_the_positions(reduction):
    teacher, student = numerics.logits()
    loss = losses.ReverseKL(reduction=reduction)
    expected = loss.reduce(loss.position_values(teacher, student), MASK)
    np.testing.assert_allclose(
        _numpy(loss(teacher, student, MASK)), _numpy(expected), rtol=1e-6
    )
    keras_style = loss(y_true=teacher, y_pred=student, sample_weight=MASK)
    np.testing.assert_allclose(_numpy(keras_style), _numpy(expected))


@pytest.mark.parametrize("reduction", REDUCED)
def test_row_without_a_response(reduction):
    teacher, student = numerics.logits()
    loss = losses.ForwardKL(reduction=reduction)
    for mask in (MASK * [[1], [0]], MASK * 0):
        gradient = numerics.gradient(
            lambda x, mask=mask: loss(teacher, x, mask), student
        )
        assert np.isfinite(gradient).all()
        np.testing.assert_array_equal(gradient[mask == 0], 0)
        assert (np.abs(gradient[mask == 1]).max(-1) > 1e-3).all()
    assert _numpy(loss(teacher, student, MASK * 0)) == 0
    values = _numpy(losses.ForwardKL().call(teacher, student))
    np.testing.assert_allclose(
        _numpy(losses.ForwardKL()(teacher, student, MASK * [[1], [0]])),
        values[0, :3].mean() / 2,
        rtol=1e-5,
    )


@pytest.mark.parametrize("reduction", [*REDUCED, "none"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_masked_may_be_anything(reduction, bad):
    teacher, student = numerics.logits()
    bad_teacher, bad_student = teacher.copy(), student.copy()
    bad_teacher[0, 3] = bad
    bad_student[1, 2] = bad
    bad_student[1, 3, 0] = bad
    loss = losses.ForwardKL(reduction=reduction)
    np.testing.assert_array_equal(
        _numpy(loss(bad_teacher, bad_student, MASK)),
        _numpy(loss(teacher, student, MASK)),
    )
    np.testing.assert_array_equal(
        numerics.gradient(
            lambda x: ops.sum(loss(bad_teacher, x, MASK)), bad_student
        ),
        numerics.gradient(lambda x: ops.sum(loss(teacher, x, MASK)), student),
    )
    # Where the mask is true, it reaches the loss.
    bad_student[0, 0] = np.nan
    assert np.isnan(_numpy(loss(teacher, bad_student, MASK))).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_reduce_drops_masked_values_that_are_not_finite(bad):
    loss = losses.ForwardKL()
    values = np.where(MASK, VALUES, bad)
    np.testing.assert_allclose(
        _numpy(loss.reduce(values, MASK)), REDUCED["sequence_mean"]
    )
    gradient = numerics.gradient(lambda x: loss.reduce(x, MASK), values)
    np.testing.assert_allclose(gradient, MASK / [[6], [2]], rtol=1e-6)


def test_cross_entropy_ignores_labels_that_are_masked():
    _, student = numerics.logits()
    loss = losses.CrossEntropy()
    token_ids = np.where(MASK, 3, -100)
    np.testing.assert_array_equal(
        _numpy(loss(token_ids, student, MASK)),
        _numpy(loss(np.full_like(MASK, 3), student, MASK)),
    )


def test_positions_can_come_in_parts():
    teacher, student = numerics.logits()
    loss = losses.ForwardKL(source_weights={"student": 0.25})
    sources = np.array([[2, 3, 2, 0], [4, 0, 0, 0]], "int32")
    whole = loss.position_values(teacher, student, sources=sources)
    parts = [
        loss.position_values(
            teacher.reshape(8, 7)[i : i + 4],
            student.reshape(8, 7)[i : i + 4],
            sources=sources.reshape(8)[i : i + 4],
        )
        for i in (0, 4)
    ]
    np.testing.assert_allclose(
        _numpy(ops.concatenate(parts)), _numpy(whole).reshape(8), rtol=1e-6
    )


def test_source_weights_scale_the_loss_and_not_the_denominator():
    teacher, student = numerics.logits()
    sources = np.array([[2, 3, 4, 0], [2, 3, 0, 0]], "int32")
    mask = sources > 1
    plain = _numpy(losses.ForwardKL().call(teacher, student))
    loss = losses.ForwardKL(source_weights={"student": 0.0, "teacher": 0.5})
    factors = np.array([[0, 0.5, 1, 0], [0, 0.5, 0, 0]])
    values = loss.position_values(teacher, student, sources=sources)
    np.testing.assert_allclose(_numpy(values), plain * factors, rtol=1e-6)
    np.testing.assert_allclose(
        _numpy(loss.reduce(values, mask)),
        ((plain * factors)[0].sum() / 3 + (plain * factors)[1].sum() / 2) / 2,
        rtol=1e-5,
    )


def test_a_factor_of_0_also_drops_what_is_not_finite():
    teacher, student = numerics.logits()
    student[0, 0] = np.nan
    sources = np.array([[2, 3, 3, 0], [3, 0, 0, 0]], "int32")
    loss = losses.ForwardKL(source_weights={"student": 0})
    values = loss.position_values(teacher, student, sources=sources)
    assert np.isfinite(_numpy(values)).all()


class LogitDistance(losses.DistillationLoss):
    """A user's own loss, which does not handle source weights."""

    def compute_values(
        self, teacher_logits, student_logits, token_ids, sources, context
    ):
        return ops.sum(ops.abs(teacher_logits - student_logits), axis=-1)


def test_source_weights_of_an_own_loss():
    teacher, student = numerics.logits()
    sources = np.array([[2, 3, 4, 0], [2, 3, 0, 0]], "int32")
    loss = LogitDistance(source_weights={"student": 0.0, "teacher": 0.5})
    values = loss.position_values(teacher, student, sources=sources)
    factors = np.array([[0, 0.5, 1, 0], [0, 0.5, 0, 0]])
    np.testing.assert_allclose(
        _numpy(values),
        factors * np.abs(teacher - student).sum(-1),
        rtol=1e-5,
    )
    # No gradient reaches the teacher, even with a user's formula.
    gradient = numerics.gradient(
        lambda x: LogitDistance()(x, student) + 0.0 * ops.sum(x), teacher
    )
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("cls", [losses.ForwardKL, LogitDistance])
def test_source_weights_need_sources(cls):
    teacher, student = numerics.logits()
    loss = cls(source_weights={"student": 0.5})
    with pytest.raises(ValueError, match="sources"):
        loss.position_values(teacher, student)
    with pytest.raises(ValueError, match="sources"):
        loss(teacher, student)


@pytest.mark.parametrize("shape", [(2,), (2, 1), (4, 2), (2, 4, 1)])
def test_weights_of_another_shape_are_refused(shape):
    loss = losses.ForwardKL()
    with pytest.raises(ValueError, match="sample_weight") as error:
        loss.reduce(VALUES, np.ones(shape))
    assert str(shape) in str(error.value) and "(2, 4)" in str(error.value)
    with pytest.raises(ValueError, match="sample_weight"):
        loss(*numerics.logits(), sample_weight=np.ones(shape))
