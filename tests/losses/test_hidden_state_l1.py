"""The loss on hidden states: its formula, and its place in a `Distiller`."""

import json

import keras
import numpy as np
import pytest
from keras import ops

import keras_skd
from keras_skd.losses import HiddenStateL1
from tests.support import numerics
from tests.support import writing

# Rows that predict three, one and no response tokens.
MASK = np.array([[0, 1, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0]], "bool")


def _states(layers=2, seed=0):
    rng = np.random.default_rng(seed)
    shape = (layers, *MASK.shape, 5)
    return [list(rng.normal(size=shape).astype("float32")) for _ in range(2)]


def _formula(teacher, student, mask, weight=1.0):
    rows = []
    for row, here in enumerate(mask):
        total = 0.0
        if here.any():
            for t, s in zip(teacher, student):
                t, s = t[row][here].astype(float), s[row][here].astype(float)
                total += np.abs(t - s).sum() / np.abs(t).sum()
        rows.append(total)
    return weight * np.mean(rows)


@pytest.mark.parametrize(("layers", "weight"), [(1, 1.0), (3, 0.25)])
def test_value(layers, weight):
    teacher, student = _states(layers)
    loss = HiddenStateL1(weight=weight)
    np.testing.assert_allclose(
        ops.convert_to_numpy(loss(teacher, student, MASK)),
        _formula(teacher, student, MASK, weight),
        rtol=1e-6,
    )
    assert float(loss(teacher, teacher, MASK)) == 0


def test_half_precision_is_computed_in_float32():
    teacher, student = _states()
    half = [[ops.cast(x, "bfloat16") for x in s] for s in (teacher, student)]
    rounded = [
        [ops.convert_to_numpy(ops.cast(x, "float32")) for x in s] for s in half
    ]
    value = HiddenStateL1()(*half, MASK)
    assert keras.backend.standardize_dtype(value.dtype) == "float32"
    np.testing.assert_allclose(
        ops.convert_to_numpy(value), _formula(*rounded, MASK), rtol=1e-5
    )


def test_gradient():
    (teacher,), (student,) = _states(layers=1)
    gradient = numerics.gradient(
        lambda x: HiddenStateL1(weight=3.0)([teacher], [x], MASK), student
    )
    sizes = [np.abs(teacher[i][MASK[i]]).sum() or 1 for i in range(3)]
    scale = 3.0 / np.reshape(sizes, (3, 1, 1)) / len(MASK)
    expected = np.sign(student - teacher) * scale * MASK[..., None]
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)
    # No gradient reaches the teacher.
    gradient = numerics.gradient(
        lambda x: HiddenStateL1()([x], [student], MASK) + 0.0 * ops.sum(x),
        teacher,
    )
    np.testing.assert_array_equal(gradient, 0)


def _llama(seed, layers=2, **kwargs):
    return writing.random_causal_lm(
        "llama", seed=seed, num_layers=layers, **kwargs
    )


@pytest.fixture(scope="module")
def models():
    return _llama(1), _llama(2)


FIRST, SECOND = "transformer_layer_0", "transformer_layer_1"
# `layers` -> the layers of the teacher and those of the student.
PAIRS = {
    "all": (None, [FIRST, SECOND], [FIRST, SECOND]),
    "list": ([SECOND], [SECOND], [SECOND]),
    "dict": (
        {FIRST: SECOND, "token_embedding": FIRST},
        [FIRST, "token_embedding"],
        [SECOND, FIRST],
    ),
}


def _batch():
    length = 8
    token_ids = np.random.default_rng(3).integers(1, 32, (4, length))
    column = np.arange(length)
    # The last row has no response.
    ends, starts = (
        np.array([[8], [6], [7], [4]]),
        np.array([[3], [5], [1], [4]]),
    )
    return {
        "token_ids": token_ids.astype("int32"),
        "padding_mask": column < ends,
        "response_mask": (column >= starts) & (column < ends),
    }


def _read(model, names, batch):
    """States of layers, from a model built without the library."""
    backbone = model.backbone
    outputs = [backbone.get_layer(name).output for name in names]
    inputs = {k: batch[k] for k in ("token_ids", "padding_mask")}
    states = keras.Model(backbone.input, outputs)(inputs)
    states = states if isinstance(states, (list, tuple)) else [states]
    return [ops.convert_to_numpy(x) for x in states]


@pytest.mark.parametrize("name", PAIRS)
def test_in_a_distiller(models, name):
    layers, theirs, ours = PAIRS[name]
    teacher, student = models
    batch = _batch()
    distiller = keras_skd.Distiller(teacher, student, rollout="supervised")
    losses = []
    for hidden_state_loss in (None, HiddenStateL1(layers, weight=0.5)):
        distiller.compile(
            loss="reverse_kl", hidden_state_loss=hidden_state_loss
        )
        losses.append(distiller.evaluate(batch, batch_size=4, verbose=0)[0])
    # The position before a token predicts it.
    predicts = np.pad(batch["response_mask"][:, 1:], [(0, 0), (0, 1)])
    expected = _formula(
        _read(teacher, theirs, batch),
        _read(student, ours, batch),
        predicts,
        weight=0.5,
    )
    assert expected > 0.1
    assert losses[1] - losses[0] == pytest.approx(expected, rel=1e-4)


def test_training_brings_the_states_together():
    distiller = keras_skd.Distiller(_llama(1), _llama(2), rollout="supervised")
    distiller.compile(
        optimizer=keras.optimizers.Adam(0.02),
        # The loss of the logits has no weight.
        loss=keras_skd.losses.WeightedSum(["forward_kl"], weights=[0.0]),
        hidden_state_loss=HiddenStateL1(),
    )
    before = distiller.student.get_weights()
    history = distiller.fit(_batch(), batch_size=4, epochs=6, verbose=0)
    losses = history.history["loss"]
    assert losses[-1] < 0.8 * losses[0]
    for old, new, weight in zip(
        before, distiller.student.get_weights(), distiller.student.weights
    ):
        # The states of the last layer depend on all but what follows it.
        follows = "reverse" in weight.path or "final" in weight.path
        follows = follows or "sequence_output" in weight.path
        assert (old != new).any() != follows, weight.path


def test_config_round_trip():
    for layers in (None, [FIRST], {FIRST: SECOND}):
        loss = HiddenStateL1(layers, weight=0.5)
        assert loss.get_config() == {"layers": layers, "weight": 0.5}
        saved = keras.saving.serialize_keras_object(loss)
        saved = json.loads(json.dumps(saved))
        restored = keras.saving.deserialize_keras_object(saved)
        assert isinstance(restored, HiddenStateL1)
        assert restored.get_config() == loss.get_config()


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (
            lambda compile: HiddenStateL1(layers=FIRST),
            TypeError,
            ["`layers`", repr(FIRST)],
        ),
        (lambda compile: HiddenStateL1(weight=-1), ValueError, ["-1"]),
        (lambda compile: HiddenStateL1(weight="1"), TypeError, ["'1'"]),
        (
            lambda compile: compile(HiddenStateL1(["transformer_layer_7"])),
            ValueError,
            ["transformer_layer_7"],
        ),
        (
            lambda compile: compile("hidden_state_l1"),
            TypeError,
            ["`hidden_state_loss`", "'hidden_state_l1'"],
        ),
        (
            lambda compile: compile(HiddenStateL1),
            TypeError,
            ["`hidden_state_loss`", "HiddenStateL1"],
        ),
        # Paired layers must have equal widths.
        (
            lambda compile: compile(HiddenStateL1(), hidden_dim=24),
            ValueError,
            ["[16, 16] in the teacher", "[24, 24] in the student", "`layers`"],
        ),
        (
            lambda compile: compile(HiddenStateL1(), layers=1),
            ValueError,
            ["[16, 16] in the teacher", "[16] in the student", "`layers`"],
        ),
    ],
)
def test_bad_input(models, make, error, words):
    def compile(loss, **kwargs):
        student = _llama(2, **kwargs) if kwargs else models[1]
        keras_skd.Distiller(models[0], student).compile(hidden_state_loss=loss)

    with pytest.raises(error) as info:
        make(compile)
    for word in words:
        assert word in str(info.value), str(info.value)
