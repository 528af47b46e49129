"""Gradients in float16, against those of float32 and of whole logits."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_skd
from keras_skd import losses
from keras_skd._backend import value_and_gradients
from keras_skd._objective.objective import Objective
from keras_skd._objective.targets import next_tokens
from keras_skd.decoding import CachedCausalLM
from tests.support import writing
from tests.support.causal_lms import causal_lm

VOCABULARY_SIZE = 4096
SHAPE = 8, 64


def _models(dtype):
    # Most architectures' attention does not run in float16 on JAX on a CPU.
    options = {"num_layers": 1, "dtype": dtype}
    return [
        CachedCausalLM(causal_lm("gemma2", seed, VOCABULARY_SIZE, **options))
        for seed in (1, 2)
    ]


@pytest.fixture(scope="module")
def models():
    return {dtype: _models(dtype) for dtype in ("float32", "mixed_float16")}


def _rollout():
    rng = np.random.default_rng(0)
    # Responses of 1 to 63 tokens: sequences weigh the same, so that a position
    # of the shortest weighs as much as all of the longest.
    lengths = np.array([1, 2, 4, 8, 16, 32, 48, 63])
    columns = np.arange(SHAPE[1])
    sources = np.where(columns < 1, 1, 2) * (columns < 1 + lengths[:, None])
    return {
        "token_ids": rng.integers(0, VOCABULARY_SIZE, SHAPE).astype("int32"),
        "padding_mask": sources > 0,
        "response_mask": sources > 1,
        "sources": sources.astype("int32"),
    }


class _Whole(Objective):
    """The loss from the logits of the whole batch."""

    def __call__(self, outputs, rollout, training_step=0, training=True):
        (teacher_states,) = self._teacher_states(rollout, needed=True)
        targets = next_tokens(rollout)
        chunked = self._chunked_loss
        values = self.loss.position_values(
            chunked.teacher.logits(teacher_states),
            chunked.student.logits(outputs["hidden_states"]),
            targets["token_ids"],
            targets["sources"],
        )
        return self.loss.reduce(values, targets["response_mask"]), {}


def _gradients(objective, student, scales):
    """The gradients of a scaled loss at each of some scales, scaled back."""
    variables = student.model.trainable_variables

    @writing.compiled
    def gradients(rollout, scale, *weights):
        def value(*weights):
            with keras.StatelessScope(zip(variables, weights)):
                outputs = objective.read_student(
                    rollout["token_ids"], rollout["padding_mask"], True
                )
                return scale * objective(outputs, rollout)[0]

        return value_and_gradients(value, weights)[1]

    weights = [ops.convert_to_numpy(v.value) for v in variables]
    results = []
    for scale in scales:
        scale = np.array(scale, "float32")
        result = gradients(_rollout(), scale, *weights)
        flat = [np.ravel(x).astype("float64") / scale for x in result]
        results.append(np.concatenate(flat))
    return results


LOSSES = {
    "forward_kl": losses.ForwardKL(),
    # A thousand times smaller, and a hundred times larger.
    "small": losses.GeneralizedJSD(0.001, reduction="token_mean"),
    "large": losses.WeightedSum(["reverse_kl", "cross_entropy"], [50, 100]),
}


@pytest.mark.parametrize("name", LOSSES)
def test_float16_gradients(models, name):
    scales = 1.0, 2.0**10, 2.0**15, 2.0**20

    def gradients(cls, dtype, scales):
        teacher, student = models[dtype]
        objective = cls(LOSSES[name], None, teacher, student, 64)
        return _gradients(objective, student, scales)

    (right,) = gradients(_Whole, "float32", [1.0])

    def errors(cls):
        return np.array(
            [
                np.linalg.norm(x - right) / np.linalg.norm(right)
                for x in gradients(cls, "mixed_float16", scales)
            ]
        )

    whole, chunked = errors(_Whole), errors(Objective)
    # Logits may overflow at a large scale, and then lower it.
    overflows = ~np.isfinite(whole)
    assert ((chunked <= 2 * whole) | overflows).all(), (whole, chunked)
    assert ((chunked < 0.01) | overflows)[2:].all(), (whole, chunked)
    assert not overflows.all()


def test_a_float16_student_is_trained_with_loss_scaling(models):
    """With its own policy, under a global policy of float32."""
    assert keras.config.dtype_policy().name == "float32"
    teacher, _ = models["float32"]
    student = _models("mixed_float16")[1]
    distiller = keras_skd.Distiller(
        teacher.model, student.model, rollout="supervised"
    )
    distiller.compile(optimizer=keras.optimizers.SGD(5.0))
    optimizer = distiller.optimizer
    assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    batch = {k: v for k, v in _rollout().items() if k != "sources"}
    history = distiller.fit(batch, batch_size=8, epochs=6, verbose=0)
    loss = history.history["loss"]
    assert loss[-1] < 0.9 * loss[0], loss
    # No step was skipped.
    assert float(ops.convert_to_numpy(optimizer.dynamic_scale)) == 2**15
    assert int(ops.convert_to_numpy(optimizer.iterations)) == 6

    distiller.compile(optimizer="sgd", auto_scale_loss=False)
    assert isinstance(distiller.optimizer, keras.optimizers.SGD)
