"""A batch that the student reads a few rows at a time, and at once."""

import keras
import keras_hub
import numpy as np
import pytest

import keras_skd
from keras_skd import losses
from keras_skd._objective import widths
from tests.support.recording import recorded_widths
from tests.support.recording import uneven_rows
from tests.support.writing import prompts
from tests.support.writing import random_causal_lm

ROWS = 5
BATCH = prompts([1, 4, 2, 3, 1], 8)


def train(
    micro_batch_size,
    models=None,
    batch=BATCH,
    rows=ROWS,
    rollout=None,
    **kwargs,
):
    """The history and the student's weights after two epochs."""
    teacher, student = models or (
        random_causal_lm("llama", 0, num_layers=1),
        random_causal_lm("gpt2", 1, num_layers=1, dropout=0.0),
    )
    distiller = keras_skd.Distiller(
        teacher,
        student,
        rollout
        or keras_skd.rollouts.Speculative(
            student_sampler="greedy",
            teacher_sampler="greedy",
            num_speculative_tokens=2,
        ),
    )
    distiller.compile(
        optimizer=keras.optimizers.SGD(0.1),
        micro_batch_size=micro_batch_size,
        **kwargs,
    )
    history = distiller.fit(
        batch, batch_size=rows, epochs=2, shuffle=False, verbose=0
    ).history
    return history, [np.array(w) for w in student.get_weights()]


def assert_equal(results, expected, tolerance=1e-5):
    (history, weights), (expected_history, expected_weights) = results, expected
    assert history.keys() == expected_history.keys()
    for name, values in history.items():
        np.testing.assert_allclose(
            values, expected_history[name], rtol=tolerance, err_msg=name
        )
    for value, expected in zip(weights, expected_weights, strict=True):
        np.testing.assert_allclose(value, expected, atol=tolerance)


def test_is_the_same_as_all_rows_at_once():
    def arguments():
        return {
            "loss": losses.ReverseKL(reduction="sequence_mean"),
            "hidden_state_loss": losses.HiddenStateL1(),
            "rollout_metrics": ["loss_parts", "kl_by_source"],
            "metrics": [keras_hub.metrics.Perplexity(from_logits=True)],
        }

    # 5 rows, 2 at a time: the last micro-batch has one.
    assert_equal(train(2, **arguments()), train(None, **arguments()))


def test_short_rows_are_read_without_most_of_the_padding(monkeypatch):
    # In batches of the long rows and of the others.
    arguments = {"batch": uneven_rows(), "rows": 5, "rollout": "supervised"}
    expected = train(None, **arguments)
    with recorded_widths(monkeypatch) as read:
        monkeypatch.setattr(widths, "_SHORT", 32)
        assert_equal(train(2, **arguments), expected)
    if keras.backend.backend() == "torch":
        # Of two: the longest of each three rows, and so on.
        assert read == [64, 32, 32, 32] * 2
    else:
        assert set(read) == {64, 32}  # Both are compiled.


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Layer .* does not have a .quantize. method")
def test_lora_and_an_int8_teacher():
    # Smaller int8 products are too narrow for TensorFlow's XLA.
    sizes = {"num_layers": 1, "hidden_dim": 32, "intermediate_dim": 64}

    def models():
        teacher = random_causal_lm("llama", 0, **sizes)
        student = random_causal_lm("gpt2", 1, num_layers=1, dropout=0.0)
        teacher.quantize("int8")
        student.backbone.enable_lora(2)
        return teacher, student

    loss = losses.ForwardKL(reduction="token_mean")
    assert_equal(
        train(2, models(), loss=loss), train(None, models(), loss=loss)
    )


@pytest.mark.slow
def test_losses_that_layers_add():
    # Routers add a loss of all tokens that they read together, the padding
    # included: it is the same only if these are.
    def models():
        return (
            random_causal_lm("llama", 0, num_layers=1),
            random_causal_lm("mixtral", 1, num_layers=1, dropout=0.0),
        )

    batch = {key: value[:4] for key, value in BATCH.items()}
    assert_equal(
        train(2, models(), batch, rows=2), train(None, models(), batch, rows=2)
    )


@pytest.mark.slow
def test_dropout_repeats_with_a_seed():
    def models():
        keras.utils.set_random_seed(3)
        return (
            random_causal_lm("llama", 0, num_layers=1),
            random_causal_lm(
                "gpt2", 1, num_layers=1, dropout=0.5, dtype="mixed_bfloat16"
            ),
        )

    # More rows at once than a batch has.
    results = train(8, models())
    assert_equal(train(8, models()), results, 0.0)


@pytest.mark.parametrize("size", [0, 2.5, "2"])
def test_bad_size(size):
    with pytest.raises((TypeError, ValueError), match="micro_batch_size"):
        train(size)


def test_float16():
    models = (
        random_causal_lm("llama", 0, num_layers=1),
        random_causal_lm("gpt2", 1, num_layers=1, dtype="mixed_float16"),
    )
    with pytest.raises(ValueError, match="micro_batch_size.*underflow"):
        train(2, models)
