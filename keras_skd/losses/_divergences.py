from keras import ops

from keras_skd._checks import check_number
from keras_skd._log_space import kl_divergence
from keras_skd._log_space import log_mixture
from keras_skd.losses._distillation_loss import registry
from keras_skd.losses._divergence import Divergence


@registry.register("forward_kl")
class ForwardKL(Divergence):
    """Kullback-Leibler divergence from the teacher to the student.

    With the teacher's probabilities `p` and the student's `q`, at every
    position::

        loss = KL(p || q) = sum(p * (log(p) - log(q)))

    It is mode-covering: the student needs probability wherever the teacher has
    some. It is the loss of Speculative Knowledge Distillation, and equal to the
    cross-entropy with the teacher's probabilities, minus their entropy.

    Args:
        **kwargs: see `keras_skd.losses.Divergence`.

    Example:

    ```python
    teacher_logits = keras.random.normal((2, 8, 32))
    student_logits = keras.random.normal((2, 8, 32))
    response_mask = keras.ops.arange(8) >= keras.ops.array([[3], [5]])
    loss = keras_skd.losses.ForwardKL()
    loss(teacher_logits, student_logits, sample_weight=response_mask)
    ```

    References:
        - [Xu et al., 2024, Eq. 1](https://arxiv.org/abs/2410.11325)
        - [Hinton et al., 2015](https://arxiv.org/abs/1503.02531)
    """

    def divergence(self, teacher_log_probs, student_log_probs):
        return kl_divergence(teacher_log_probs, student_log_probs)


@registry.register("reverse_kl")
class ReverseKL(Divergence):
    """Kullback-Leibler divergence from the student to the teacher.

    With the teacher's probabilities `p` and the student's `q`, at every
    position::

        loss = KL(q || p) = sum(q * (log(q) - log(p)))

    It is mode-seeking: the student avoids tokens of little probability to the
    teacher, and may ignore some of the likely ones.

    Args:
        **kwargs: see `keras_skd.losses.Divergence`.

    Example:

    ```python
    logits = keras.random.normal((2, 2, 8, 32))
    loss = keras_skd.losses.ReverseKL(temperature=2.0)
    loss(y_true=logits[0], y_pred=logits[1])
    ```

    References:
        - [Gu et al., 2023](https://arxiv.org/abs/2306.08543)
    """

    def divergence(self, teacher_log_probs, student_log_probs):
        return kl_divergence(student_log_probs, teacher_log_probs)


@registry.register("generalized_jsd")
class GeneralizedJSD(Divergence):
    """Generalized Jensen-Shannon divergence of teacher and student.

    With the teacher's probabilities `p` and the student's `q`, at every
    position::

        m = beta * p + (1 - beta) * q
        loss = beta * KL(p || m) + (1 - beta) * KL(q || m)

    `beta` is the teacher's share of the mixture, as in the paper below and in
    TRL; in some libraries, it is the student's. At `beta=0.5` this is the
    Jensen-Shannon divergence, at most `log(2)`.

    At both ends, the formula is 0 for any two models. As in TRL,
    `beta=0` is `KL(p || q)` and `beta=1` is `KL(q || p)` instead, which are
    the limits of the formula divided by `beta` and by `1 - beta`. So the loss
    jumps at both ends: `beta=0.001` is about a thousandth of `beta=0`.

    Args:
        beta: float, in `[0, 1]`. Defaults to `0.5`.
        **kwargs: see `keras_skd.losses.Divergence`.

    Example:

    ```python
    logits = keras.random.normal((2, 2, 8, 32))
    loss = keras_skd.losses.GeneralizedJSD(beta=0.1)
    loss(y_true=logits[0], y_pred=logits[1])
    ```

    References:
        - [Agarwal et al., 2023](https://arxiv.org/abs/2306.13649)
    """

    def __init__(self, beta: float = 0.5, **kwargs):
        super().__init__(**kwargs)
        self.beta = check_number("beta", beta, "[0, 1]")

    def divergence(self, teacher_log_probs, student_log_probs):
        if self.beta == 0:
            return kl_divergence(teacher_log_probs, student_log_probs)
        if self.beta == 1:
            return kl_divergence(student_log_probs, teacher_log_probs)
        mixture = log_mixture(teacher_log_probs, student_log_probs, self.beta)
        return self.beta * kl_divergence(teacher_log_probs, mixture) + (
            1.0 - self.beta
        ) * kl_divergence(student_log_probs, mixture)

    def get_config(self) -> dict:
        return {**super().get_config(), "beta": self.beta}


@registry.register("skew_kl")
class SkewKL(Divergence):
    """Skewed Kullback-Leibler divergence from the teacher to the student.

    With the teacher's probabilities `p` and the student's `q`, at every
    position::

        loss = KL(p || alpha * p + (1 - alpha) * q)

    The mixture bounds the loss by `-log(alpha)`, and also its gradient, where
    the student gives the teacher's likely tokens almost no probability.
    `alpha=0` is `keras_skd.losses.ForwardKL`.

    Args:
        alpha: float, in `[0, 1)`. The teacher's share of the mixture.
            Defaults to `0.1`.
        **kwargs: see `keras_skd.losses.Divergence`.

    Example:

    ```python
    logits = keras.random.normal((2, 2, 8, 32))
    loss = keras_skd.losses.SkewKL(alpha=0.1)
    loss(y_true=logits[0], y_pred=logits[1])
    ```

    References:
        - [Ko et al., 2024](https://arxiv.org/abs/2402.03898)
    """

    def __init__(self, alpha: float = 0.1, **kwargs):
        super().__init__(**kwargs)
        self.alpha = check_number("alpha", alpha, "[0, 1)")

    def divergence(self, teacher_log_probs, student_log_probs):
        return skew_kl(teacher_log_probs, student_log_probs, self.alpha)

    def get_config(self) -> dict:
        return {**super().get_config(), "alpha": self.alpha}


@registry.register("skew_reverse_kl")
class SkewReverseKL(Divergence):
    """Skewed Kullback-Leibler divergence from the student to the teacher.

    With the teacher's probabilities `p` and the student's `q`, at every
    position::

        loss = KL(q || (1 - alpha) * p + alpha * q)

    The mixture bounds the loss by `-log(alpha)`, where the teacher gives the
    student's likely tokens almost no probability. `alpha=0` is
    `keras_skd.losses.ReverseKL`.

    Args:
        alpha: float, in `[0, 1)`. The student's share of the mixture.
            Defaults to `0.1`.
        stop_gradient_mixture: bool. Whether the mixture counts as a constant
            in the gradient, as in the released code of DistiLLM-2. Defaults to
            `False`, the gradient of the formula.
        **kwargs: see `keras_skd.losses.Divergence`.

    Example:

    ```python
    logits = keras.random.normal((2, 2, 8, 32))
    loss = keras_skd.losses.SkewReverseKL(alpha=0.1)
    loss(y_true=logits[0], y_pred=logits[1])
    ```

    References:
        - [Ko et al., 2024](https://arxiv.org/abs/2402.03898)
        - [Ko et al., 2025](https://arxiv.org/abs/2503.07067)
    """

    def __init__(
        self, alpha: float = 0.1, stop_gradient_mixture: bool = False, **kwargs
    ):
        super().__init__(**kwargs)
        self.alpha = check_number("alpha", alpha, "[0, 1)")
        self.stop_gradient_mixture = stop_gradient_mixture

    def divergence(self, teacher_log_probs, student_log_probs):
        return skew_kl(
            student_log_probs,
            teacher_log_probs,
            self.alpha,
            self.stop_gradient_mixture,
        )

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "alpha": self.alpha,
            "stop_gradient_mixture": self.stop_gradient_mixture,
        }


@registry.register("total_variation")
class TotalVariation(Divergence):
    """Total variation distance of teacher and student.

    With the teacher's probabilities `p` and the student's `q`, at every
    position::

        loss = 1/2 * sum(abs(p - q))

    It is symmetric and at most 1, and `1 - loss` is the probability that
    lossless speculative decoding accepts a token that the student drafts.
    Its gradient at a token is proportional to `q`, so that a student is slow
    to learn tokens that it gives almost no probability.

    Args:
        **kwargs: see `keras_skd.losses.Divergence`.

    Example:

    ```python
    logits = keras.random.normal((2, 2, 8, 32))
    loss = keras_skd.losses.TotalVariation()
    loss(y_true=logits[0], y_pred=logits[1])
    ```

    References:
        - [Wen et al., 2023](https://arxiv.org/abs/2307.15190)
        - [Leviathan et al., 2022](https://arxiv.org/abs/2211.17192)
    """

    def divergence(self, teacher_log_probs, student_log_probs):
        difference = ops.exp(teacher_log_probs) - ops.exp(student_log_probs)
        return 0.5 * ops.sum(ops.abs(difference), axis=-1)


@registry.register("adaptive_kl")
class AdaptiveKL(Divergence):
    """Adaptive mixture of the forward and the reverse KL divergence.

    Early in training, the forward divergence fits the teacher's most probable
    tokens, the reverse divergence the others. This loss gives more weight to
    the one whose tokens differ more. With the teacher's probabilities `p` and
    the student's `q`, at every position::

        head = smallest set of the teacher's most probable tokens that holds
               at least `head_mass` of its probability
        gap_head = sum(abs(p - q) over head)
        gap_tail = sum(abs(p - q) over the other tokens)
        loss = gap_head / (gap_head + gap_tail) * KL(p || q)
             + gap_tail / (gap_head + gap_tail) * KL(q || p)

    The weights count as constants in the gradient. Where teacher and student
    are equal, the loss is 0. It costs a sort of the vocabulary.

    The token with which the head reaches `head_mass` belongs to the head. The
    [authors' code](https://github.com/wutaiqiang/LLM_KD_AKL) puts it into the
    tail, unless it is the most probable token: there, the head holds at most
    `head_mass`, or one token.

    Args:
        head_mass: float, in `(0, 1)`. Defaults to `0.5`.
        **kwargs: see `keras_skd.losses.Divergence`.

    Example:

    ```python
    logits = keras.random.normal((2, 2, 8, 32))
    loss = keras_skd.losses.AdaptiveKL()
    loss(y_true=logits[0], y_pred=logits[1])
    ```

    References:
        - [Wu et al., 2024](https://arxiv.org/abs/2404.02657)
    """

    def __init__(self, head_mass: float = 0.5, **kwargs):
        super().__init__(**kwargs)
        self.head_mass = check_number("head_mass", head_mass, "(0, 1)")

    def divergence(self, teacher_log_probs, student_log_probs):
        p = ops.exp(teacher_log_probs)
        q = ops.stop_gradient(ops.exp(student_log_probs))
        by_rank = ops.argsort(-p, axis=-1)
        p = ops.take_along_axis(p, by_rank, axis=-1)
        q = ops.take_along_axis(q, by_rank, axis=-1)
        gaps = ops.abs(p - q)
        # A token is in the head unless the tokens before it suffice.
        in_head = ops.cumsum(p, axis=-1) - p < self.head_mass
        gap_head = ops.sum(ops.where(in_head, gaps, 0.0), axis=-1)
        gap_tail = ops.sum(ops.where(in_head, 0.0, gaps), axis=-1)
        total = gap_head + gap_tail

        forward = kl_divergence(teacher_log_probs, student_log_probs)
        reverse = kl_divergence(student_log_probs, teacher_log_probs)
        # Without a gap, both weights are 0.
        return (
            ops.divide_no_nan(gap_head, total) * forward
            + ops.divide_no_nan(gap_tail, total) * reverse
        )

    def get_config(self) -> dict:
        return {**super().get_config(), "head_mass": self.head_mass}


def skew_kl(log_p, log_q, alpha, stop_gradient_mixture=False):
    """Returns `KL(p || alpha * p + (1 - alpha) * q)`."""
    mixture = log_mixture(log_p, log_q, alpha)
    if stop_gradient_mixture:
        mixture = ops.stop_gradient(mixture)
    return kl_divergence(log_p, mixture)
