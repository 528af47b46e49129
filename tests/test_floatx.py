"""All ways of decoding work at every `keras.config.floatx()`."""

import keras
import numpy as np
import pytest

import keras_skd
from keras_skd import acceptance
from keras_skd import rollouts
from tests.support.writing import prompts
from tests.support.writing import random_causal_lm

BATCH = prompts([1, 4, 2], 8)
ROLLOUTS = {
    "lossless": lambda: rollouts.Speculative(
        "lossless", num_speculative_tokens=2
    ),
    "mixture": lambda: rollouts.Mixture(
        {
            "on_policy": 1,
            "teacher": 1,
            rollouts.Segments((3, 4, 5), threshold=-3.0): 1,
            rollouts.Speculative(acceptance.TopK(12), decoding="lockstep"): 1,
        }
    ),
}


@pytest.fixture(params=["bfloat16", "float16", "float64"])
def floatx(request):
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(request.param)
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_floatx(before[0])
    keras.config.set_dtype_policy(before[1])


@pytest.mark.parametrize("name", ROLLOUTS)
def test_rollouts_and_training(floatx, name):
    if keras.backend.backend() == "jax":
        if floatx == "float64":
            pytest.skip("JAX has no float64 unless it is told to")
        if floatx == "float16":
            pytest.skip("XLA has no float16 products on a CPU, KerasHub or not")
    distiller = keras_skd.Distiller(
        random_causal_lm("llama", 0, num_layers=1),
        random_causal_lm("gpt2", 1, num_layers=1),
        rollout=ROLLOUTS[name](),
        seed=1,
    )
    assert distiller.student.compute_dtype == floatx
    distiller.compile(optimizer=keras.optimizers.SGD(1e-3))
    history = distiller.fit(BATCH, verbose=0).history
    logs = {name: float(value) for name, (value,) in history.items()}
    assert np.isfinite([*logs.values()]).all()
    assert logs["response_length"] == pytest.approx(
        BATCH["token_ids"].shape[1] - 7 / 3, rel=0.01
    )
    if name == "lossless":
        outputs = distiller.generate(BATCH, sampler="top_k")
        assert outputs["padding_mask"].all()
