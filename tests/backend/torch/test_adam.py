"""PyTorch's kernel makes the updates of Keras' Adam."""

import keras
import numpy as np
import pytest

if keras.backend.backend() != "torch":
    pytest.skip("how PyTorch updates weights", allow_module_level=True)

import torch

from keras_skd._backend.torch.adam import fuse

SHAPES = (7, 5), (3,)


def train(optimizer, fused, dtype="float32"):
    """The weights and the states of the optimizer after four steps."""
    rng = np.random.default_rng(0)
    variables = [
        keras.Variable(rng.normal(size=shape), dtype=dtype) for shape in SHAPES
    ]
    optimizer.build(variables)
    if fused:
        fuse(optimizer)
    for step in range(4):
        # The second variable has no gradient in the second step.
        used = variables[: 1 + (step != 1)]
        grads = [torch.tensor(rng.normal(size=v.shape)) for v in used]
        grads = [keras.ops.cast(g, dtype) for g in grads]
        optimizer.apply(grads, used)
    return [
        keras.ops.convert_to_numpy(keras.ops.cast(v, "float32"))
        for v in (*variables, *optimizer.variables)
    ]


@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.optimizers.Adam(0.1, beta_2=0.9, epsilon=1e-3),
        lambda: keras.optimizers.Adam(
            keras.optimizers.schedules.PolynomialDecay(0.1, 3),
            amsgrad=True,
            global_clipnorm=0.5,
        ),
        lambda: keras.optimizers.AdamW(
            0.1, weight_decay=0.1, use_ema=True, gradient_accumulation_steps=2
        ),
    ],
    ids=["Adam", "amsgrad", "AdamW"],
)
def test_equals_keras(make, monkeypatch):
    calls, kernel = [], torch._fused_adam_

    def count(*args, **kwargs):
        calls.append(1)
        kernel(*args, **kwargs)

    expected = train(make(), fused=False)
    monkeypatch.setattr(torch, "_fused_adam_", count)
    results = train(make(), fused=True)
    assert calls
    for result, value in zip(results, expected, strict=True):
        # Keras rounds `1 - beta_2**step` to float32, 6e-5 off at first.
        np.testing.assert_allclose(result, value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [keras.optimizers.Adam, keras.optimizers.SGD],
    ids=["bfloat16", "another optimizer"],
)
def test_others_are_keras_own(make, monkeypatch):
    monkeypatch.delattr(torch, "_fused_adam_")
    expected = train(make(0.1), fused=False, dtype="bfloat16")
    for result, value in zip(
        train(make(0.1), fused=True, dtype="bfloat16"), expected, strict=True
    ):
        np.testing.assert_array_equal(result, value)


def test_an_update_of_ones_own_is_kept(monkeypatch):
    class Mine(keras.optimizers.Adam):
        pass

    monkeypatch.delattr(torch, "_fused_adam_")
    train(Mine(), fused=True)
