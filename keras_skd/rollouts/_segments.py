import keras
import keras_hub
from keras import ops

from keras_skd.decoding import Prompts
from keras_skd.decoding import _segments as segments
from keras_skd.decoding import finish
from keras_skd.decoding import get_sampler
from keras_skd.rollouts._rollout import Rollout
from keras_skd.schedules import _serialization as schedules


@keras.saving.register_keras_serializable(package="keras_skd")
class Segments(Rollout):
    """Student and teacher write in turn, whole segments at a time.

    The student proposes a segment (a sentence, a reasoning step, an action) up
    to and including one of some end tokens. It stands if its score is high
    enough; if not, the teacher writes a segment in its place.

    Args:
        segment_end_token_ids: tuple of ints, the tokens that end a segment.
            A stop token ends the last one.
        threshold: float, or a schedule. The score from which on a segment
            stands. Defaults to -2.0.
        score: callable, or `None`. It is given the token ids and the mask of
            the segment, of shape `(batch, sequence_length)`, and the teacher's
            log-probabilities of the tokens, 0 outside of the segment, and
            returns a float tensor of shape `(batch,)`. Defaults to `None`, the
            mean of the log-probabilities.
        student_sampler: a `keras_hub.samplers.Sampler` or its name. Defaults
            to `"random"`.
        teacher_sampler: a `keras_hub.samplers.Sampler` or its name. Defaults
            to `"random"`.

    Example:

    ```python
    newline = tokenizer.token_to_id("\\n")
    rollout = keras_skd.rollouts.Segments(
        segment_end_token_ids=(newline,), threshold=-1.5
    )
    distiller = keras_skd.Distiller(teacher, student, rollout=rollout)
    ```

    Reference:

    - [Zhang et al., 2025](https://arxiv.org/abs/2502.07942), speculative data
        synthesis.
    """

    tests_drafts = True

    def __init__(
        self,
        segment_end_token_ids: tuple[int, ...],
        threshold=-2.0,
        score=None,
        student_sampler: str | keras_hub.samplers.Sampler = "random",
        teacher_sampler: str | keras_hub.samplers.Sampler = "random",
    ):
        is_ids = isinstance(segment_end_token_ids, (tuple, list))
        if not is_ids or not all(
            isinstance(i, int) for i in segment_end_token_ids
        ):
            raise TypeError(
                "`segment_end_token_ids` must be a tuple of ints. Received: "
                f"{segment_end_token_ids!r}"
            )
        if score is not None and not callable(score):
            raise TypeError(
                f"`score` must be callable or `None`. Received: {score!r}"
            )
        self.segment_end_token_ids = tuple(segment_end_token_ids)
        self.threshold = schedules.check(
            "threshold", threshold, lambda x: True, "a number"
        )
        self.score = score
        self.student_sampler = get_sampler(student_sampler, "student_sampler")
        self.teacher_sampler = get_sampler(teacher_sampler, "teacher_sampler")

    def samplers(self):
        return {
            "student_sampler": self.student_sampler,
            "teacher_sampler": self.teacher_sampler,
        }

    def call(self, batch, student, teacher, stop_token_ids=(), training_step=0):
        for model in (student, teacher):
            if not model.can_roll_back:
                raise ValueError(
                    "`Segments` needs models that can take tokens back, and "
                    f"{type(model.model).__name__} is recurrent."
                )
        if "teacher_token_ids" in batch:
            raise ValueError(
                'The data has "teacher_prompts", and `Segments` lets student '
                "and teacher read the same. Use `Speculative`."
            )
        threshold = schedules.value_at(self.threshold, training_step)
        score = self.score or _mean_log_prob

        def accept(token_ids, segment, log_probs):
            return score(token_ids, segment, log_probs) >= threshold

        written = segments.speculate(
            student,
            teacher,
            self.student_sampler,
            self.teacher_sampler,
            accept,
            Prompts(batch),
            self.segment_end_token_ids,
            stop_token_ids,
        )
        rollout = finish(**written)
        return {**rollout, "tested": rollout["response_mask"]}

    def get_config(self):
        config = super().get_config()
        config.update(
            {
                "segment_end_token_ids": self.segment_end_token_ids,
                "threshold": schedules.serialize(self.threshold),
                "score": keras.saving.serialize_keras_object(self.score),
            }
        )
        return config

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        config["score"] = keras.saving.deserialize_keras_object(config["score"])
        return cls(**config)


def _mean_log_prob(token_ids, segment, log_probs):
    tokens = ops.sum(ops.cast(segment, "float32"), axis=1)
    return ops.sum(log_probs, axis=1) / ops.maximum(tokens, 1.0)
