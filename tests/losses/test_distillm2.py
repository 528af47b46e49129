import keras
import numpy as np
import pytest
from keras import ops

from keras_skd import losses
from tests.support import numerics

# A response by the teacher, one by the student, one by both, and none.
SOURCES = np.array(
    [[3, 3, 3, 0], [2, 2, 2, 2], [1, 2, 3, 3], [0, 0, 0, 0]], "int32"
)
MASK = SOURCES > 1


def _numpy(x):
    return ops.convert_to_numpy(x)


def _inputs():
    teacher, student = numerics.logits((4, 4, 7))
    token_ids = np.random.default_rng(0).integers(0, 7, (4, 4))

    def token_log_probs(logits):
        log_probs = np.log(numerics.softmax(logits))
        log_probs = np.take_along_axis(log_probs, token_ids[..., None], -1)
        # Values outside the response do not matter.
        return np.where(MASK, log_probs[..., 0], np.nan).astype("float32")

    return teacher, student, token_log_probs(teacher), token_log_probs(student)


def test_alpha_by_hand():
    author = np.log([[0.2, 0.8, 1.0], [0.46, 1.0, 1.0], [1.0, 1.0, 1.0]])
    reader = np.log([[0.15, 0.15, 1.0], [0.2, 1.0, 1.0], [0.1, 0.1, 0.1]])
    mask = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0]], "bool")
    # Typical probabilities 0.4 and 0.15, then 0.46 and 0.2: gaps of 0.25 and
    # 0.26, on average 0.255. The third row has no token and no part in it.
    alphas = losses.distillm2_alpha(
        author.astype("float32"), reader.astype("float32"), mask
    )
    np.testing.assert_allclose(
        _numpy(alphas)[:2], [1 - 0.9 * 0.255 / 0.25, 0.1], rtol=1e-3
    )
    unclipped = losses.distillm2_alpha(
        author.astype("float32"),
        reader.astype("float32"),
        mask,
        alpha=0.5,
        min_alpha=0.4999,
    )
    np.testing.assert_allclose(_numpy(unclipped)[:2], [0.4999, 0.5], rtol=1e-6)


@pytest.mark.parametrize("gaps", [(0.3,), (0.3, 0.3), (0.0, 0.0), (-0.2,)])
def test_alpha_of_an_average_response_is_alpha(gaps):
    author = np.log(0.5 + np.array(gaps)[:, None])
    reader = np.log(np.full_like(author, 0.5))
    alphas = losses.distillm2_alpha(
        author.astype("float32"),
        reader.astype("float32"),
        np.ones(author.shape, "bool"),
        alpha=0.2,
    )
    np.testing.assert_allclose(_numpy(alphas), 0.2, rtol=1e-4)


def test_alpha_grows_with_the_gap():
    author = np.log([[0.9], [0.6], [0.5], [0.4]]).astype("float32")
    reader = np.log(np.full((4, 1), 0.35)).astype("float32")
    alphas = losses.distillm2_alpha(
        author, reader, np.ones((4, 1), "bool"), alpha=0.9, min_alpha=0.001
    )
    # Gaps 0.55, 0.25, 0.15 and 0.05, on average 0.25.
    expected = [0.9, 0.9, 1 - 0.1 * 0.25 / 0.15, 1 - 0.1 * 0.25 / 0.05]
    np.testing.assert_allclose(_numpy(alphas), expected, rtol=1e-4)


def test_beta_by_hand():
    # Three epochs of 100 updates.
    steps = [0, 99, 100, 149, 150, 199, 200, 299]
    expected = [0.5, 0.5, 2 / 3, 0.83, 1 / 3 + 0.5, 0.99666, 1.0, 1.0]
    betas = [
        float(_numpy(losses.distillm2_beta(step // 100, 3, step, 300)))
        for step in steps
    ]
    np.testing.assert_allclose(betas, expected, rtol=1e-4)
    assert float(_numpy(losses.distillm2_beta(0, 1, 0, 10, beta=0.2))) == (
        pytest.approx(0.2)
    )


def _expected(teacher, student, alphas, beta, detach=None):
    p, q = numerics.softmax(teacher), numerics.softmax(student)
    constant = q if detach is None else numerics.softmax(detach)
    alpha = alphas[..., None]
    skewed = numerics.kl(p, alpha * p + (1 - alpha) * q)
    reverse = numerics.kl(q, (1 - alpha) * p + alpha * constant)
    return np.where(SOURCES == 2, beta * reverse, (1 - beta) * skewed)


def _alphas(teacher_log_probs, student_log_probs):
    """The paper's formula, spelled out for `SOURCES`."""
    p = np.exp(
        [teacher_log_probs[0, :3].mean(), teacher_log_probs[2, 2:].mean()]
    )
    q = np.exp(
        [student_log_probs[0, :3].mean(), student_log_probs[2, 2:].mean()]
    )
    gaps = p - q
    by_teacher = np.clip(1 - 0.9 * gaps.mean() / gaps, 0.01, 0.1)
    p = np.exp([teacher_log_probs[1].mean(), teacher_log_probs[2, 1].mean()])
    q = np.exp([student_log_probs[1].mean(), student_log_probs[2, 1].mean()])
    gaps = q - p
    by_student = np.clip(1 - 0.9 * gaps.mean() / gaps, 0.01, 0.1)
    alphas = np.full((4, 4), 0.1)
    alphas[0], alphas[1] = by_teacher[0], by_student[0]
    alphas[2] = np.where(SOURCES[2] == 2, by_student[1], by_teacher[1])
    return alphas


@pytest.mark.parametrize(
    ("step", "beta"), [(0, 0.5), (99, 0.5), (120, 1 / 3 + 0.4), (250, 1.0)]
)
def test_loss_is_the_formula(step, beta):
    teacher, student, teacher_log_probs, student_log_probs = _inputs()
    loss = losses.DistiLLM2(steps_per_epoch=100, epochs=3)
    context = loss.prepare(
        MASK, SOURCES, step, teacher_log_probs, student_log_probs
    )
    alphas = np.full((4, 4), 0.1)
    if step >= 100:
        alphas = _alphas(teacher_log_probs, student_log_probs)
        # Both curricula have an effect.
        assert len(np.unique(alphas[MASK])) > 1
    expected = _expected(teacher, student, alphas, beta)
    values = loss.position_values(
        teacher, student, sources=SOURCES, context=context
    )
    np.testing.assert_allclose(
        _numpy(values)[MASK], expected[MASK], rtol=1e-4, atol=1e-6
    )
    rows = [
        expected[0, :3].mean(),
        expected[1].mean(),
        expected[2, 1:].mean(),
        0,
    ]
    np.testing.assert_allclose(
        _numpy(loss.reduce(values, MASK)), np.mean(rows), rtol=1e-4
    )


@pytest.mark.parametrize("stop_gradient_mixture", [False, True])
def test_gradient_is_the_formula(stop_gradient_mixture):
    teacher, student, teacher_log_probs, student_log_probs = _inputs()
    loss = losses.DistiLLM2(
        steps_per_epoch=100,
        epochs=3,
        reduction="sum",
        stop_gradient_mixture=stop_gradient_mixture,
    )
    context = loss.prepare(
        MASK, SOURCES, 120, teacher_log_probs, student_log_probs
    )

    def reduced(x):
        values = loss.position_values(
            teacher, x, sources=SOURCES, context=context
        )
        return loss.reduce(values, MASK)

    alphas = _alphas(teacher_log_probs, student_log_probs)
    constant = student if stop_gradient_mixture else None
    expected = numerics.finite_differences(
        lambda x: _expected(teacher, x, alphas, 1 / 3 + 0.4, constant)[
            MASK
        ].sum(),
        student,
    )
    gradient = numerics.gradient(reduced, student)
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-5)
    assert np.abs(gradient[~MASK]).max() == 0


def test_first_epoch_is_by_source():
    teacher, student, teacher_log_probs, student_log_probs = _inputs()
    loss = losses.DistiLLM2(steps_per_epoch=10, epochs=1, alpha=0.3)
    context = loss.prepare(
        MASK, SOURCES, 0, teacher_log_probs, student_log_probs
    )
    values = loss.position_values(
        teacher, student, sources=SOURCES, context=context
    )
    by_source = losses.BySource(
        teacher=losses.SkewKL(0.3), student=losses.SkewReverseKL(0.3)
    ).position_values(teacher, student, sources=SOURCES)
    np.testing.assert_allclose(
        _numpy(values)[MASK], 0.5 * _numpy(by_source)[MASK], rtol=1e-5
    )


def test_no_gradient_through_alpha():
    teacher, student, teacher_log_probs, student_log_probs = _inputs()
    loss = losses.DistiLLM2(steps_per_epoch=1, epochs=9, alpha=0.9)

    def total(x):
        context = loss.prepare(MASK, SOURCES, 1, teacher_log_probs, x)
        return ops.sum(context["alpha"]) + ops.sum(x)

    student_log_probs = np.where(MASK, student_log_probs, 0)
    np.testing.assert_array_equal(
        numerics.gradient(total, student_log_probs), 1
    )


def test_context_goes_through_combinations_and_in_parts():
    teacher, student, teacher_log_probs, student_log_probs = _inputs()
    inner = losses.DistiLLM2(steps_per_epoch=100, epochs=3)
    loss = losses.WeightedSum(
        [losses.BySource(teacher=inner, student="forward_kl"), "reverse_kl"]
    )
    context = loss.prepare(
        response_mask=MASK,
        sources=SOURCES,
        training_step=ops.convert_to_tensor(120, "int32"),
        teacher_token_log_probs=teacher_log_probs,
        student_token_log_probs=student_log_probs,
    )
    flat = keras.tree.map_structure(lambda x: ops.reshape(x, (16,)), context)
    parts = [
        loss.position_values(
            teacher.reshape(16, 7)[part],
            student.reshape(16, 7)[part],
            sources=SOURCES.reshape(16)[part],
            context=keras.tree.map_structure(lambda x, p=part: x[p], flat),
        )
        for part in (slice(0, 8), slice(8, 16))
    ]
    alphas = _alphas(teacher_log_probs, student_log_probs)
    p, q = numerics.softmax(teacher), numerics.softmax(student)
    expected = numerics.kl(q, p) + np.where(
        SOURCES == 2,
        numerics.kl(p, q),
        _expected(teacher, student, alphas, 1 / 3 + 0.4),
    )
    np.testing.assert_allclose(
        _numpy(ops.concatenate(parts)).reshape(4, 4)[MASK],
        expected[MASK],
        rtol=1e-4,
    )


def test_most_losses_have_an_empty_context():
    loss = losses.WeightedSum(
        ["forward_kl", losses.BySource(data="cross_entropy")]
    )
    context = loss.prepare(MASK, SOURCES, 0)
    assert keras.tree.flatten(context) == []
    keras.tree.map_structure(lambda x: x[0], context)


def test_missing_inputs_are_named():
    teacher, student, *_ = _inputs()
    loss = losses.DistiLLM2(steps_per_epoch=100, epochs=3)
    with pytest.raises(ValueError, match="teacher_token_log_probs"):
        loss.prepare(MASK, SOURCES, 0)
    with pytest.raises(ValueError, match="context"):
        loss.position_values(teacher, student, sources=SOURCES)
    with pytest.raises(ValueError, match="prepare"):
        loss(teacher, student)


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ({"steps_per_epoch": 0}, ValueError),
        ({"steps_per_epoch": 2.5}, TypeError),
        ({"epochs": -1}, ValueError),
        ({"alpha": 0.0}, ValueError),
        ({"alpha": 1.0}, ValueError),
        ({"min_alpha": 0.2}, ValueError),
        ({"min_alpha": 0}, ValueError),
        ({"beta": 1.5}, ValueError),
    ],
    ids=str,
)
def test_bad_arguments_are_named_and_shown(kwargs, error):
    ((name, value),) = kwargs.items()
    with pytest.raises(error, match=f"`{name}`.*{value}"):
        losses.DistiLLM2(**{"steps_per_epoch": 10, "epochs": 3, **kwargs})
