import keras
from keras import ops

from keras_skd.acceptance._acceptance_rule import AcceptanceRule
from keras_skd.schedules import _serialization as schedules


@keras.saving.register_keras_serializable(package="keras_skd")
class Interpolated(AcceptanceRule):
    """Writes exact samples of a mixture of student and teacher.

    With p the distribution that the teacher's sampler draws from and q the
    student's, what is written follows `(1 - gamma) q + gamma p`: a drafted
    token stands with probability `min(1, 1 - gamma + gamma p / q)`, and a
    rejected one is replaced by a sample of the residual `(p - q)+`.

    Both samplers must be greedy, random, top-k or top-p.

    Args:
        gamma: float in [0, 1], or a schedule, the teacher's share.
            Defaults to 0.1.
        seed: int. Defaults to `None`, the Distiller's.

    Example:

    ```python
    rollout = keras_skd.rollouts.Speculative(
        acceptance=keras_skd.acceptance.Interpolated(gamma=0.2)
    )
    ```

    Reference:

    - [Leviathan et al., 2022](https://arxiv.org/abs/2211.17192), section 2.3,
        for gamma = 1.
    """

    compares_distributions = True

    def __init__(self, gamma=0.1, seed: int | None = None):
        self.gamma = schedules.check(
            "gamma", gamma, lambda gamma: 0 <= gamma <= 1, "in [0, 1]"
        )
        self.seed = seed
        self.seed_generator = _seed_generator(seed)

    @property
    def variables(self):
        return [self.seed_generator.state]

    def set_seed(self, seed):
        if self.seed is None:
            self.seed_generator = _seed_generator(seed)

    def accept(
        self, token_ids, teacher_logits, student_logits=None, training_step=0
    ):
        index = token_ids[..., None]
        p, q = (
            ops.take_along_axis(x, index, axis=-1)[..., 0]
            for x in (teacher_logits, student_logits)
        )
        gamma = schedules.value_at(self.gamma, training_step)
        # The ratio counts up to 1 only; clipped before it can overflow.
        ratio = ops.exp(ops.minimum(p - q, 0.0))
        uniform = keras.random.uniform(
            ops.shape(token_ids), seed=self.seed_generator
        )
        return uniform < 1.0 - gamma + gamma * ratio

    def sample_replacement(
        self, teacher_log_probs, student_log_probs, training_step=0
    ):
        p, q = ops.exp(teacher_log_probs), ops.exp(student_log_probs)
        residual = ops.maximum(p - q, 0.0)
        # Two equal distributions leave nothing, and reject nothing.
        nothing = ops.sum(residual, axis=-1, keepdims=True) <= 0
        residual = ops.where(nothing, p, residual)
        tiny = residual <= 0
        logits = ops.where(tiny, -1e30, ops.log(ops.where(tiny, 1.0, residual)))
        return keras.random.categorical(
            logits, 1, dtype="int32", seed=self.seed_generator
        )[:, 0]

    def get_config(self):
        return {"gamma": schedules.serialize(self.gamma), "seed": self.seed}


def _seed_generator(seed):
    # A sampler with the same seed must not draw with the same numbers: what
    # was drafted would say something about what is drawn here.
    return keras.random.SeedGenerator(seed if seed is None else seed ^ 0x51CDE)
