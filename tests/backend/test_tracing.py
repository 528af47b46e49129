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


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="only TensorFlow makes constants of values of the data",
)
@pytest.mark.parametrize("has_teacher_prompts", [False, True])
@pytest.mark.parametrize("rollout", ["speculative", "segments", "on_policy"])
def test_no_rollout_is_compiled_for_the_lengths(rollout, has_teacher_prompts):
    """As it was for GPT-2, which reads a slice of its position embeddings."""
    if rollout == "segments":
        if has_teacher_prompts:
            pytest.skip("segments have no teacher prompts")
        rollout = keras_skd.rollouts.Segments((5,), -3.0)
    teacher, student = (
        random_causal_lm("gpt2", seed, num_layers=1) for seed in (0, 1)
    )
    distiller = keras_skd.Distiller(teacher, student, rollout)
    distiller.compile()
    run = distiller.make_rollout_function(distiller.rollout)
    states = [variable[...] for variable in distiller.rollout.variables]
    programs = set()
    for lengths in ([2, 3], [4, 2], [1, 1]):
        batch = prompts(lengths, 8)
        if has_teacher_prompts:
            longer = prompts([2 * n for n in lengths], 16)
            batch |= {f"teacher_{key}": x for key, x in longer.items()}
        batch = {k: keras.ops.convert_to_tensor(x) for k, x in batch.items()}
        lower = run._compiled.experimental_get_compiler_ir
        programs.add(lower(batch, None, states, None)(stage="hlo"))
    assert len(programs) == 1
