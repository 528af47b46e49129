"""How often a train step is traced: each time takes seconds to minutes."""

import keras
import pytest

import keras_skd
from tests.support.writing import prompts
from tests.support.writing import random_causal_lm


class Counting(keras_skd.Distiller):
    num_traces = 0

    def compute_loss(self, *args, **kwargs):
        self.num_traces += 1
        return super().compute_loss(*args, **kwargs)


@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="PyTorch traces no train step"
)
@pytest.mark.parametrize("scales_loss", [False, True])
def test_no_step_is_traced_twice(scales_loss):
    """As TensorFlow does with a step that makes the optimizer's variables."""
    teacher, student = (
        random_causal_lm("llama", seed, num_layers=1) for seed in (0, 1)
    )
    distiller = Counting(teacher, student, "on_policy")
    optimizer = keras.optimizers.Adam()
    if scales_loss:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    distiller.compile(optimizer)
    batch = prompts([2, 3], 8)
    distiller.fit(batch, epochs=2, verbose=0)
    distiller.fit(batch, verbose=0)
    assert distiller.num_traces == 1
