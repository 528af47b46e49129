"""Rules that compare the distributions of teacher and student."""

import keras
from keras import ops

from keras_skd._log_space import LOG_ZERO
from keras_skd._log_space import at_token
from keras_skd._log_space import safe_log
from keras_skd.acceptance._acceptance_rule import _RULES
from keras_skd.acceptance._acceptance_rule import DistributionRule
from keras_skd.schedules._values import check_value
from keras_skd.schedules._values import serialize_value
from keras_skd.schedules._values import value_at


@_RULES.register("interpolated")
class Interpolated(DistributionRule):
    """Writes exact samples of a mixture of student and teacher.

    With p the distribution that the teacher's sampler draws from and q the
    student's, the text follows `(1 - gamma) q + gamma p`: a drafted token is
    accepted with probability `min(1, 1 - gamma + gamma p / q)`, and a rejected
    one is replaced by a sample of the residual `(p - q)+`.

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

    def __init__(self, gamma=0.1, seed: int | None = None):
        super().__init__(seed=seed)
        self.gamma = check_value("gamma", gamma, "[0, 1]")

    def accept(
        self, token_ids, teacher_log_probs, student_log_probs, training_step=0
    ):
        p = at_token(teacher_log_probs, token_ids)
        q = at_token(student_log_probs, token_ids)
        gamma = value_at(self.gamma, training_step)
        # Ratios above 1 count as 1, and are clipped before `exp` overflows.
        ratio = ops.exp(ops.minimum(p - q, 0.0))
        # The ratio is 0 for a token that either cannot draw: log 0 - log 0
        # would give 1, and a student that has diverged drafts such tokens.
        ratio = ops.where(ops.minimum(p, q) <= LOG_ZERO, 0.0, ratio)
        uniform = keras.random.uniform(
            ops.shape(token_ids), dtype="float32", seed=self.seed_generator
        )
        return uniform < 1.0 - gamma + gamma * ratio

    def sample_replacement(
        self, teacher_log_probs, student_log_probs, training_step=0
    ):
        p, q = ops.exp(teacher_log_probs), ops.exp(student_log_probs)
        residual = ops.maximum(p - q, 0.0)
        # Equal distributions have no residual, and reject nothing.
        is_empty = ops.sum(residual, axis=-1, keepdims=True) <= 0
        residual = ops.where(is_empty, p, residual)
        return keras.random.categorical(
            safe_log(residual), 1, dtype="int32", seed=self.seed_generator
        )[:, 0]

    def get_config(self) -> dict:
        return {"gamma": serialize_value(self.gamma), **super().get_config()}


@_RULES.register("lossless")
class Lossless(Interpolated):
    """Writes exact samples of the teacher: lossless speculative decoding.

    A drafted token of probability q to the student and p to the teacher is
    accepted with probability `min(1, p / q)`, and a rejected one is replaced by
    a sample of the residual `(p - q)+`. As a rollout, this is sequence-level
    distillation at the cost of speculative decoding.

    Args:
        seed: int. Defaults to `None`, the Distiller's.

    Example:

    ```python
    rollout = keras_skd.rollouts.Speculative(
        acceptance=keras_skd.acceptance.Lossless()
    )
    ```

    Reference:

    - [Leviathan et al., 2022](https://arxiv.org/abs/2211.17192), section 2.3.
    """

    def __init__(self, seed: int | None = None):
        super().__init__(gamma=1.0, seed=seed)

    def get_config(self) -> dict:
        return {"seed": self.seed}
