"""Rules that look at the teacher's logits alone."""

from keras import ops

from keras_skd._log_space import at_token
from keras_skd.acceptance._acceptance_rule import _RULES
from keras_skd.acceptance._acceptance_rule import TeacherRule
from keras_skd.schedules._values import check_integer_value
from keras_skd.schedules._values import check_value
from keras_skd.schedules._values import serialize_value
from keras_skd.schedules._values import value_at


@_RULES.register("top_k")
class TopK(TeacherRule):
    """Accepts a drafted token that is among the teacher's `k` likeliest.

    With `k` equal to the vocabulary size every draft is accepted, which is
    on-policy distillation; with a small `k` nearly every token is the
    teacher's. A token as likely as the `k`-th is accepted.

    Args:
        k: int, at least 1, or a schedule (rounded up). Defaults to 25, the
            paper's choice.

    Example:

    ```python
    rollout = keras_skd.rollouts.Speculative(
        acceptance=keras_skd.acceptance.TopK(k=10)
    )
    ```

    Reference:

    - [Xu et al., 2024](https://arxiv.org/abs/2410.11325), Algorithm 1.
    """

    def __init__(self, k=25):
        self.k = check_integer_value("k", k, minimum=1)

    def accept(self, token_ids, teacher_logits, training_step=0):
        # The rank of a token is the number of tokens above it: no sorting.
        above = teacher_logits > at_token(teacher_logits, token_ids)[..., None]
        rank = ops.sum(ops.cast(above, "int32"), axis=-1)
        return ops.cast(rank, "float32") < value_at(self.k, training_step)

    def get_config(self) -> dict:
        return {"k": serialize_value(self.k)}


@_RULES.register("top_p")
class TopP(TeacherRule):
    """Accepts a drafted token in the teacher's nucleus of mass `p`.

    The nucleus is the smallest set of the likeliest tokens whose probabilities
    sum to `p` or more. It is wide where the teacher is unsure and narrow where
    it is not.

    Args:
        p: float in (0, 1], or a schedule. Defaults to 0.95.

    Example:

    ```python
    rollout = keras_skd.rollouts.Speculative(
        acceptance=keras_skd.acceptance.TopP(p=0.9)
    )
    ```

    Reference:

    - [Holtzman et al., 2019](https://arxiv.org/abs/1904.09751), the nucleus.
    """

    def __init__(self, p=0.95):
        self.p = check_value("p", p, "(0, 1]")

    def accept(self, token_ids, teacher_logits, training_step=0):
        logits = ops.cast(teacher_logits, "float32")
        above = logits > at_token(logits, token_ids)[..., None]
        mass_above = ops.sum(
            ops.where(above, ops.softmax(logits), 0.0), axis=-1
        )
        return mass_above < value_at(self.p, training_step)

    def get_config(self) -> dict:
        return {"p": serialize_value(self.p)}


@_RULES.register("probability_floor")
class ProbabilityFloor(TeacherRule):
    """Accepts a drafted token of at least a minimum teacher probability.

    Args:
        floor: float in [0, 1], or a schedule. Defaults to 0.05.

    Example:

    Strict at first, then relaxed, over 1,000 batches:

    ```python
    rule = keras_skd.acceptance.ProbabilityFloor(
        keras_skd.schedules.Cosine(0.5, 0.25, num_steps=1000)
    )
    rollout = keras_skd.rollouts.Speculative(acceptance=rule)
    ```
    """

    def __init__(self, floor=0.05):
        self.floor = check_value("floor", floor, "[0, 1]")

    def accept(self, token_ids, teacher_logits, training_step=0):
        probabilities = ops.softmax(ops.cast(teacher_logits, "float32"))
        floor = value_at(self.floor, training_step)
        return at_token(probabilities, token_ids) >= floor

    def get_config(self) -> dict:
        return {"floor": serialize_value(self.floor)}


@_RULES.register("typical")
class Typical(TeacherRule):
    """Accepts a drafted token that is typical of the teacher's distribution.

    A token of teacher probability p is accepted if
    `p > min(epsilon, delta * exp(-H))`, where H is the entropy, in nats, of
    the teacher's distribution: the threshold is lower where the teacher is
    unsure.

    Args:
        epsilon: float in [0, 1], or a schedule. Defaults to 0.09.
        delta: float in [0, 1], or a schedule. Defaults to 0.3.

    Example:

    ```python
    rollout = keras_skd.rollouts.Speculative(
        acceptance=keras_skd.acceptance.Typical()
    )
    ```

    Reference:

    - [Cai et al., 2024](https://arxiv.org/abs/2401.10774), section 2.3.1.
    """

    def __init__(self, epsilon=0.09, delta=0.3):
        self.epsilon = check_value("epsilon", epsilon, "[0, 1]")
        self.delta = check_value("delta", delta, "[0, 1]")

    def accept(self, token_ids, teacher_logits, training_step=0):
        log_probs = ops.log_softmax(ops.cast(teacher_logits, "float32"))
        probabilities = ops.exp(log_probs)
        # At p = 0, p log p counts as 0, its limit.
        terms = ops.where(probabilities > 0, probabilities * log_probs, 0.0)
        entropy = -ops.sum(terms, axis=-1)
        epsilon = value_at(self.epsilon, training_step)
        delta = value_at(self.delta, training_step)
        threshold = ops.minimum(epsilon, delta * ops.exp(-entropy))
        return at_token(probabilities, token_ids) > threshold

    def get_config(self) -> dict:
        return {
            "epsilon": serialize_value(self.epsilon),
            "delta": serialize_value(self.delta),
        }
