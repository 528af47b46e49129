"""A distiller without a teacher: supervised fine-tuning, of a teacher often."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_skd
from tests.support import bad_input
from tests.support import tokenizers

DATA = {
    "prompts": ["Alice was", "The begin", "said the"],
    "responses": [" very tired", "ning", ""],
}


def _model(seed=1, **kwargs):
    preprocessor = tokenizers.gpt2(sequence_length=8)
    size = preprocessor.tokenizer.vocabulary_size()
    return bad_input.gpt2(
        size, preprocessor=preprocessor, seed=seed, dropout=0.0, **kwargs
    )


def test_equals_cross_entropy_beside_a_teacher():
    weights, logs = [], []
    for teacher in (None, _model(seed=2)):
        student = _model()
        distiller = keras_skd.Distiller(teacher, student, "supervised")
        loss = None if teacher is None else "cross_entropy"
        distiller.compile(optimizer=keras.optimizers.SGD(0.5), loss=loss)
        history = distiller.fit(
            DATA, validation_data=DATA, batch_size=3, epochs=2, verbose=0
        ).history
        logs.append(history)
        weights.append(student.get_weights())
    assert logs[0]["loss"][1] < logs[0]["loss"][0]
    assert set(logs[1]) - set(logs[0]) == {"val_kl"}
    for key, values in logs[0].items():
        assert values == pytest.approx(logs[1][key], rel=1e-5)
    for ours, theirs in zip(*weights):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_is_the_cross_entropy_of_the_responses():
    student = _model()
    distiller = keras_skd.Distiller(None, student)
    distiller.compile()
    packed = distiller._pack(DATA)
    logits = ops.convert_to_numpy(
        student({k: packed[k] for k in ("token_ids", "padding_mask")})
    ).astype("float64")
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    following = packed["token_ids"][:, 1:, None]
    values = -np.take_along_axis(log_probs[:, :-1], following, axis=-1)[..., 0]
    mask = packed["response_mask"][:, 1:]
    expected = np.mean((values * mask).sum(1) / mask.sum(1))
    loss = distiller.evaluate(DATA, batch_size=3, verbose=0)
    assert loss == pytest.approx(expected, rel=1e-5)
    # The rest of a day with it.
    written = distiller.generate_rollout(DATA)
    np.testing.assert_array_equal(
        written["response_mask"], packed["response_mask"]
    )
    distiller.train_on_batch(DATA)
    distiller.compile(metrics=["sparse_categorical_accuracy"])
    logs = distiller.evaluate(DATA, batch_size=3, return_dict=True, verbose=0)
    assert set(logs) == {"loss", "sparse_categorical_accuracy"}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda d: keras_skd.Distiller(None, d.student, "speculative"),
            ["teacher=None", "Speculative", "'supervised'"],
        ),
        (
            lambda d: keras_skd.Distiller(
                None,
                d.student,
                keras_skd.rollouts.Mixture({"supervised": 0.5, "teacher": 0.5}),
            ),
            ["teacher=None", "Mixture"],
        ),
        (
            lambda d: d.compile(loss="forward_kl"),
            ["teacher", "ForwardKL", "'cross_entropy'"],
        ),
        (
            lambda d: d.compile(
                hidden_state_loss=keras_skd.losses.HiddenStateL1(["x"])
            ),
            ["teacher", "`hidden_state_loss`"],
        ),
        (
            lambda d: d.generate("Alice was"),
            ["teacher", "distiller.student.generate"],
        ),
    ],
)
def test_what_needs_a_teacher(call, words):
    distiller = keras_skd.Distiller(None, _model())
    with pytest.raises(ValueError) as info:
        call(distiller)
    for word in words:
        assert word in str(info.value)


def test_a_model_that_was_a_teacher():
    teacher = _model()
    keras_skd.Distiller(teacher, _model(seed=2))
    distiller = keras_skd.Distiller(None, teacher)
    distiller.compile()
    for train in (distiller.fit, distiller.train_on_batch):
        with pytest.raises(ValueError, match="`student.trainable = True`"):
            train(DATA)
    teacher.trainable = True
    distiller.compile()
    distiller.fit(DATA, verbose=0)


def test_the_first_step_is_announced_once(capsys):
    distiller = keras_skd.Distiller(None, _model())
    for _ in range(2):
        distiller.compile()
        distiller.fit(DATA, verbose=0)
        assert "compiles" not in capsys.readouterr().out
        distiller.compile()
        distiller.fit(DATA, verbose=2)
        assert capsys.readouterr().out.count("The first step compiles") == 1
        distiller.fit(DATA, verbose=2)
        assert "compiles" not in capsys.readouterr().out


def test_saved_and_loaded(tmp_path):
    distiller = keras_skd.Distiller(None, _model())
    distiller.compile()
    distiller.fit(DATA, verbose=0)
    distiller.save(tmp_path / "tuner.keras")
    loaded = keras_skd.Distiller.load(tmp_path / "tuner.keras")
    assert loaded.teacher is None
    logs = [d.fit(DATA, verbose=0).history for d in (distiller, loaded)]
    assert logs[0]["loss"] == pytest.approx(logs[1]["loss"], rel=1e-5)
