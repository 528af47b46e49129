"""Several updates of a batch, whose rows are written together."""

import keras
import keras_hub
import numpy as np
import pytest

import keras_skd
from keras_skd import rollouts
from tests.support.recording import uneven_rows
from tests.support.writing import prompts
from tests.support.writing import random_causal_lm

ROWS, SIZE = 5, 2  # Updates of 2, 2 and 1 rows.
BATCH = prompts([1, 4, 2, 3, 1], 8)


def compiled(rollout="supervised", **kwargs):
    distiller = keras_skd.Distiller(
        random_causal_lm("llama", 0, num_layers=1),
        random_causal_lm("gpt2", 1, num_layers=1, dropout=0.0),
        rollout,
    )
    distiller.compile(
        optimizer=keras.optimizers.SGD(
            keras.optimizers.schedules.ExponentialDecay(0.2, 2, 0.5)
        ),
        metrics=[keras_hub.metrics.Perplexity(from_logits=True)],
        **kwargs,
    )
    return distiller


def several(rollout="supervised", **kwargs):
    return compiled(
        rollout, micro_batch_size=SIZE, accumulate_gradients=False, **kwargs
    )


def fit(distiller, batch, batch_size, **kwargs):
    return distiller.fit(
        batch, batch_size=batch_size, shuffle=False, verbose=0, **kwargs
    ).history


def assert_same_weights(distiller, expected):
    assert int(distiller.training_step) == int(expected.training_step)
    assert int(distiller.optimizer.iterations) == int(
        expected.optimizer.iterations
    )
    for a, b in zip(
        distiller.student.get_weights(),
        expected.student.get_weights(),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_of_given_text_they_are_those_of_smaller_batches():
    batch = uneven_rows()  # In batches of one width, and of another.
    is_torch = keras.config.backend() == "torch"  # Keras has only 1 there.
    distiller = several(steps_per_execution=1 if is_torch else 2)
    history = fit(distiller, batch, 2 * SIZE, epochs=2)
    expected = compiled()
    expected_history = fit(expected, batch, SIZE, epochs=2)
    assert_same_weights(distiller, expected)
    history.pop("rollout_age")
    assert history.keys() == expected_history.keys()
    for name, values in history.items():
        np.testing.assert_allclose(
            values, expected_history[name], rtol=1e-5, err_msg=name
        )


def test_the_rows_of_a_batch_are_written_together():
    def rollout():
        return rollouts.Speculative(
            student_sampler="greedy",
            teacher_sampler="greedy",
            num_speculative_tokens=2,
        )

    distiller = several(rollout())
    history = fit(distiller, BATCH, ROWS, epochs=2)
    # The first rows of a batch are as old as its text, the last two updates.
    np.testing.assert_allclose(history["rollout_age"], (0 + 0 + 1 + 1 + 2) / 5)

    expected = compiled()
    for _ in range(2):
        writer = keras_skd.Distiller(
            expected.teacher, expected.student, rollout()
        )
        written = writer.generate_rollout(BATCH)
        keys = "token_ids", "padding_mask", "response_mask"
        fit(expected, {key: written[key] for key in keys}, SIZE)
    assert_same_weights(distiller, expected)


def test_an_evaluation_reads_what_the_student_has_just_written():
    distiller = several(rollouts.OnPolicy("greedy"))
    history = fit(distiller, BATCH, ROWS, validation_data=BATCH)
    assert history["rollout_age"] == [pytest.approx(0.8)]
    assert history["val_rollout_age"] == [0.0]
    scores = distiller.evaluate(uneven_rows(), verbose=0, return_dict=True)
    assert "rollout_age" not in scores  # Of given text.


def test_a_batch_of_train_on_batch_makes_several():
    distiller = several(rollouts.OnPolicy("greedy"))
    logs = distiller.train_on_batch(BATCH, return_dict=True)
    assert int(distiller.optimizer.iterations) == 3
    assert float(logs["rollout_age"]) == pytest.approx(0.8)


def test_is_part_of_the_saved_compilation():
    config = several().get_compile_config()
    names = "micro_batch_size", "accumulate_gradients"
    assert [config[name] for name in names] == [SIZE, False]
    distiller = compiled()
    distiller.compile_from_config(config)
    assert [distiller.get_compile_config()[n] for n in names] == [SIZE, False]


def test_the_number_of_rows_is_needed():
    with pytest.raises(ValueError, match="say how many rows"):
        compiled(accumulate_gradients=False)
