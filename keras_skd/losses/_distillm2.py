from keras import ops

from keras_skd._backend import sum_over_replicas
from keras_skd._checks import check_integer
from keras_skd._checks import check_number
from keras_skd._log_space import Tensor
from keras_skd._source import Source
from keras_skd.losses._distillation_loss import registry
from keras_skd.losses._divergence import Divergence
from keras_skd.losses._divergences import skew_kl


def distillm2_alpha(
    author_log_probs: Tensor,
    reader_log_probs: Tensor,
    mask: Tensor,
    alpha: float = 0.1,
    min_alpha: float = 0.01,
) -> Tensor:
    """Returns DistiLLM-2's skew for each response that one model has written.

    With `a` and `r` the probabilities of its tokens under the model that wrote
    a response and under the other one::

        gap = exp(mean(log(a))) - exp(mean(log(r)))
        skew = clip(1 - (1 - alpha) * mean(gap) / gap, min_alpha, alpha)

    The first two means are over the tokens of a response, the third over the
    responses. `(1 - skew) * gap` approximates the distance of the two
    distributions that are compared: the skew keeps it equal for easy and for
    hard responses.

    Args:
        author_log_probs: float tensor `(batch, length)`. The log-probabilities
            of the tokens under the model that wrote them.
        reader_log_probs: float tensor `(batch, length)`. The same under the
            other model.
        mask: bool tensor `(batch, length)`. The tokens that count. A row
            without any has no part in the mean gap.
        alpha: float. The skew of a response of average gap, and the largest.
        min_alpha: float. The smallest skew.

    Returns:
        A float tensor `(batch,)`, without a gradient.
    """
    lengths = ops.sum(ops.cast(mask, author_log_probs.dtype), axis=-1)

    def typical_probability(log_probs):
        total = ops.sum(ops.where(mask, log_probs, 0.0), axis=-1)
        return ops.exp(total / ops.maximum(lengths, 1.0))

    # Zero in a row without tokens, where both are exp(0).
    gaps = typical_probability(author_log_probs) - typical_probability(
        reader_log_probs
    )
    responses = ops.sum(ops.cast(lengths > 0, gaps.dtype))
    total, responses = sum_over_replicas((ops.sum(gaps), responses))
    mean_gap = total / ops.maximum(responses, 1.0)
    # Equal models have no gap: any finite ratio will do.
    ratios = mean_gap / ops.where(gaps == 0, 1e-5, gaps)
    skews = ops.clip(1.0 - (1.0 - alpha) * ratios, min_alpha, alpha)
    return ops.stop_gradient(skews)


def distillm2_beta(
    epoch: int | Tensor,
    num_epochs: int,
    step: int | Tensor,
    num_steps: int,
    beta: float = 0.5,
) -> Tensor:
    """Returns DistiLLM-2's weight of the student's responses.

    This is `clip(epoch / num_epochs + step / num_steps, beta, 1)`.

    Args:
        epoch: int or int tensor. The number of completed epochs.
        num_epochs: int. The number of epochs of the training.
        step: int or int tensor. The number of updates since its start.
        num_steps: int. The number of updates of the training.
        beta: float. The smallest weight, at which training starts.

    Returns:
        A float scalar.
    """
    epoch = ops.cast(epoch, "float32")
    step = ops.cast(step, "float32")
    return ops.clip(epoch / num_epochs + step / num_steps, beta, 1.0)


@registry.register("distillm2")
class DistiLLM2(Divergence):
    """The loss of DistiLLM-2, with both of its curricula.

    With the teacher's probabilities `p` and the student's `q`, at every
    position::

        (1 - beta) * KL(p || alpha * p + (1 - alpha) * q)

    if the token there is from the teacher or the data, and::

        beta * KL(q || (1 - alpha) * p + alpha * q)

    if it is from the student. In the first epoch, `alpha` is the argument;
    later, it is larger for a response on which the models differ more
    (`keras_skd.losses.distillm2_alpha`). `beta` grows over the training, from
    the teacher's responses towards the student's
    (`keras_skd.losses.distillm2_beta`).

    The paper trains on pairs of whole responses, one of each model, and its
    `1 / 2|D|` is the mean over the rows of a batch that holds both. Where
    student and teacher write one response in turn, each author's part has its
    own `alpha`.

    The paper does not define the steps in its formula for `beta`. Here they
    are all updates since the first epoch, so that `beta` never falls. The
    released code uses neither curriculum, like
    `keras_skd.losses.BySource(teacher=SkewKL(0.1), student=SkewReverseKL(0.1,
    stop_gradient_mixture=True))`.

    Args:
        steps_per_epoch: int. The number of updates in an epoch.
        epochs: int. The number of epochs of the training.
        alpha: float, in `(0, 1)`. The skew in the first epoch, and the largest
            afterwards. Defaults to `0.1`.
        min_alpha: float, in `(0, alpha]`. The smallest skew. Defaults to
            `0.01`.
        beta: float, in `[0, 1]`. The weight of the student's responses at the
            start. Defaults to `0.5`.
        stop_gradient_mixture: bool, as in `keras_skd.losses.SkewReverseKL`.
            Defaults to `False`.
        **kwargs: see `keras_skd.losses.Divergence`.

    The loss cannot be called on logits alone, since `alpha` depends on the
    batch and `beta` on the step: call `prepare()`, `position_values()`, then
    `reduce()`.

    Example:

    ```python
    import numpy as np

    teacher_logits = keras.random.normal((2, 4, 32))
    student_logits = keras.random.normal((2, 4, 32))
    token_ids = keras.random.randint((2, 4), 0, 32)
    # One response by the teacher and one by the student.
    source = keras_skd.Source
    sources = np.array([[source.TEACHER] * 4, [source.STUDENT] * 4])
    response_mask = np.array([[1, 1, 1, 0], [1, 1, 1, 1]])

    def token_log_probs(logits):
        log_probs = keras.ops.log_softmax(logits)
        token = keras.ops.expand_dims(token_ids, -1)
        return keras.ops.take_along_axis(log_probs, token, -1)[..., 0]

    loss = keras_skd.losses.DistiLLM2(steps_per_epoch=100, epochs=3)
    context = loss.prepare(
        response_mask,
        sources,
        training_step=150,
        teacher_token_log_probs=token_log_probs(teacher_logits),
        student_token_log_probs=token_log_probs(student_logits),
    )
    values = loss.position_values(
        teacher_logits, student_logits, token_ids, sources, context
    )
    loss.reduce(values, response_mask)
    ```

    References:
        - [Ko et al., 2025](https://arxiv.org/abs/2503.07067)
    """

    needs_token_log_probs = True

    def __init__(
        self,
        steps_per_epoch: int,
        epochs: int,
        alpha: float = 0.1,
        min_alpha: float = 0.01,
        beta: float = 0.5,
        stop_gradient_mixture: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.steps_per_epoch = check_integer(
            "steps_per_epoch", steps_per_epoch, 1
        )
        self.epochs = check_integer("epochs", epochs, 1)
        self.alpha = check_number("alpha", alpha, "(0, 1)")
        self.min_alpha = check_number(
            "min_alpha", min_alpha, f"(0, {self.alpha}]"
        )
        self.beta = check_number("beta", beta, "[0, 1]")
        self.stop_gradient_mixture = stop_gradient_mixture

    def prepare(
        self,
        response_mask: Tensor,
        sources: Tensor,
        training_step: int | Tensor,
        teacher_token_log_probs: Tensor | None = None,
        student_token_log_probs: Tensor | None = None,
    ) -> dict:
        if teacher_token_log_probs is None or student_token_log_probs is None:
            raise ValueError(
                "`DistiLLM2` adapts `alpha` to both models' probabilities of "
                "the tokens: pass `teacher_token_log_probs` and "
                "`student_token_log_probs`. Received: None"
            )
        teacher = ops.cast(teacher_token_log_probs, self.dtype)
        student = ops.cast(student_token_log_probs, self.dtype)
        step = ops.cast(training_step, "int32")
        epoch = step // self.steps_per_epoch
        responses = ops.cast(response_mask, "bool")
        by_student = ops.equal(sources, Source.STUDENT.value)
        others = ops.logical_and(responses, ops.logical_not(by_student))

        def adapt(author, reader, mask):
            alphas = distillm2_alpha(
                author, reader, mask, self.alpha, self.min_alpha
            )
            return ops.expand_dims(alphas, -1)

        alpha = ops.where(
            by_student,
            adapt(student, teacher, ops.logical_and(responses, by_student)),
            adapt(teacher, student, others),
        )
        beta = distillm2_beta(
            epoch,
            self.epochs,
            step,
            self.epochs * self.steps_per_epoch,
            self.beta,
        )
        beta = ops.cast(beta, self.dtype)
        return {
            "alpha": ops.where(epoch < 1, self.alpha, alpha),
            "weight": ops.where(by_student, beta, 1.0 - beta),
        }

    def compute_values(
        self, teacher_logits, student_logits, token_ids, sources, context
    ):
        if sources is None or not context:
            raise ValueError(
                "`DistiLLM2` needs to know who wrote each token, and what "
                "`prepare()` returned: call `position_values()` with `sources` "
                f"and `context`. Received: sources={sources}, "
                f"context={context}"
            )
        teacher, student = self.log_probs(teacher_logits, student_logits)
        alpha = ops.expand_dims(context["alpha"], -1)
        return context["weight"] * ops.where(
            ops.equal(sources, Source.STUDENT.value),
            skew_kl(student, teacher, alpha, self.stop_gradient_mixture),
            skew_kl(teacher, student, alpha),
        )

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "steps_per_epoch": self.steps_per_epoch,
            "epochs": self.epochs,
            "alpha": self.alpha,
            "min_alpha": self.min_alpha,
            "beta": self.beta,
            "stop_gradient_mixture": self.stop_gradient_mixture,
        }
