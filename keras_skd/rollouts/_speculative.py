"""Rollouts in which student and teacher write in turn."""

import keras
import keras_hub
from keras import ops

from keras_skd import acceptance as rules
from keras_skd._checks import check_integer
from keras_skd._checks import is_integer
from keras_skd._seeding import derive_seed
from keras_skd.decoding import Prompts
from keras_skd.decoding import _lockstep
from keras_skd.decoding._draft_length import DraftLength
from keras_skd.decoding._draft_verifier import DraftVerifier
from keras_skd.decoding._prompts import has_teacher_prompts
from keras_skd.decoding._sampling import draws_from_known_distribution
from keras_skd.decoding._sampling import get_sampler
from keras_skd.decoding._segments import SegmentDecoder
from keras_skd.decoding._speculation import SpeculativeDecoder
from keras_skd.rollouts._rollout import _ROLLOUTS
from keras_skd.rollouts._rollout import Rollout
from keras_skd.schedules._values import check_value
from keras_skd.schedules._values import serialize_value
from keras_skd.schedules._values import value_at

# The choices of "auto". A teacher pass is compiled for each of them. 16 drafts
# were 20 % faster where all of them were accepted, and not at 90 %.
_CHOICES = (1, 4)


class _TwoSamplers(Rollout):
    """Base class of rollouts in which student and teacher have samplers."""

    is_speculative = True

    def __init__(self, student_sampler, teacher_sampler):
        self.student_sampler = get_sampler(student_sampler, "student_sampler")
        self.teacher_sampler = get_sampler(teacher_sampler, "teacher_sampler")

    def samplers(self) -> dict:
        return {
            "student_sampler": self.student_sampler,
            "teacher_sampler": self.teacher_sampler,
        }

    def _speculative(self, rollout):
        """Adds the draft mask: every response token was tested."""
        return {**rollout, "draft_mask": rollout["response_mask"]}


@_ROLLOUTS.register("speculative")
class Speculative(_TwoSamplers):
    """Student and teacher write in turn: speculative knowledge distillation.

    The student drafts tokens; the teacher replaces those that it is unlikely to
    write itself. Early in training most of the text is the teacher's, later
    most of it is the student's, without a schedule.

    Args:
        acceptance: a `keras_skd.acceptance.AcceptanceRule` or its name, which
            decides whether a draft is accepted. Defaults to the paper's
            `TopK(25)`.
        num_speculative_tokens: int or `"auto"`. How many tokens the student
            drafts before the teacher reads them. It changes the speed, never
            the distribution of the text. `"auto"` depends on the acceptance
            rate. Defaults to `"auto"`.
        student_sampler: a `keras_hub.samplers.Sampler` or its name, which
            draws the drafts. Defaults to `"random"`.
        teacher_sampler: a `keras_hub.samplers.Sampler` or its name, which
            draws the replacements. Defaults to `"random"`.
        decoding: `"ragged"` (each row at its own position), `"lockstep"` (one
            token at a time) or `"auto"`, which is `"ragged"` unless one of the
            models is recurrent and cannot roll back.

    Example:

    ```python
    rollout = keras_skd.rollouts.Speculative(
        acceptance=keras_skd.acceptance.TopK(10),
        student_sampler=keras_hub.samplers.RandomSampler(temperature=0.7),
    )
    distiller = keras_skd.Distiller(teacher, student, rollout=rollout)
    ```

    Reference:

    - [Xu et al., 2024](https://arxiv.org/abs/2410.11325), Algorithm 1.
    """

    # Whether the teacher adds a token where all drafts are accepted.
    _bonus = False

    def __init__(
        self,
        acceptance: str | rules.AcceptanceRule | None = None,
        num_speculative_tokens: int | str = "auto",
        student_sampler: str | keras_hub.samplers.Sampler = "random",
        teacher_sampler: str | keras_hub.samplers.Sampler = "random",
        decoding: str = "auto",
    ):
        super().__init__(student_sampler, teacher_sampler)
        choices = _CHOICES
        if num_speculative_tokens != "auto":
            choices = [_check_num_drafts(num_speculative_tokens)]
        if decoding not in ("auto", "ragged", "lockstep"):
            raise ValueError(
                "`decoding` must be 'auto', 'ragged' or 'lockstep'. Received: "
                f"{decoding!r}"
            )
        self.acceptance = rules.get(
            rules.TopK(25) if acceptance is None else acceptance
        )
        if isinstance(self.acceptance, rules.DistributionRule):
            for name, sampler in self.samplers().items():
                _check_distribution(name, sampler, self.acceptance)
        self.num_speculative_tokens = num_speculative_tokens
        self.decoding = decoding
        self._draft_length = DraftLength(choices)

    @property
    def _longest_draft(self):
        return max(self._draft_length.choices)

    @property
    def variables(self) -> list:
        return [
            *super().variables,
            *self.acceptance.variables,
            *self._draft_length.variables,
        ]

    def set_seed(self, seed: int):
        super().set_seed(seed)
        self.acceptance.set_seed(derive_seed(seed, "acceptance"))

    def call(self, batch, student, teacher, stop_token_ids=(), training_step=0):
        prompts = Prompts(batch)
        verifier = DraftVerifier(
            self.acceptance,
            self.student_sampler,
            self.teacher_sampler,
            training_step,
        )
        if self._in_lockstep(student, teacher):
            _check_same_prompts(batch, "Lock-step decoding")
            sequences, records = _lockstep.speculate(
                student, teacher, verifier, prompts, stop_token_ids
            )
            rollout = sequences.to_rollout()
            return {
                **self._speculative(rollout),
                **records,
                # The teacher reads each token as it comes.
                "num_teacher_calls": ops.sum(
                    ops.cast(rollout["response_mask"], "int32"), axis=1
                ),
            }
        state = SpeculativeDecoder(
            student,
            teacher,
            verifier,
            self._draft_length,
            prompts,
            stop_token_ids,
            self._bonus,
        )()
        return {
            **self._speculative(state.sequences.to_rollout()),
            "teacher_hidden_states": state.teacher_hidden_states,
            "num_tested": state.num_tested,
            "num_teacher_calls": state.num_teacher_calls,
            **state.records,
        }

    def _in_lockstep(self, student, teacher):
        for model in (student, teacher):
            if not model.can_roll_back:
                if self.decoding != "ragged":
                    return True
                raise ValueError(
                    "`decoding='ragged'` needs models that can roll back, and "
                    f"{type(model.model).__name__} is recurrent. Use "
                    "'lockstep' or 'auto'."
                )
        return self.decoding == "lockstep"

    def get_config(self) -> dict:
        return {
            "acceptance": rules.serialize(self.acceptance),
            "num_speculative_tokens": self.num_speculative_tokens,
            **super().get_config(),
            "decoding": self.decoding,
        }


@_ROLLOUTS.register("segments")
class Segments(_TwoSamplers):
    """Student and teacher write in turn, whole segments at a time.

    The student drafts a segment (a sentence, a reasoning step, an action) up to
    and including an end token. If its score is below `threshold`, the teacher
    writes a segment in its place.

    Args:
        segment_end_token_ids: tuple of ints, the tokens that end a segment.
            A stop token ends the last one.
        threshold: float, or a schedule. The lowest score of an accepted
            segment. Defaults to -2.0.
        score: callable from the token ids, the mask of the segment and the
            teacher's log-probabilities of the tokens (0 outside of the
            segment), all of shape `(batch, sequence_length)`, to a float tensor
            of shape `(batch,)`. Defaults to `None`, the mean of the
            log-probabilities.
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

    def __init__(
        self,
        segment_end_token_ids: tuple[int, ...],
        threshold=-2.0,
        score=None,
        student_sampler: str | keras_hub.samplers.Sampler = "random",
        teacher_sampler: str | keras_hub.samplers.Sampler = "random",
    ):
        super().__init__(student_sampler, teacher_sampler)
        is_ids = isinstance(segment_end_token_ids, (tuple, list))
        if not is_ids or not all(map(is_integer, segment_end_token_ids)):
            raise TypeError(
                "`segment_end_token_ids` must be a tuple of ints. Received: "
                f"{segment_end_token_ids!r}"
            )
        if score is not None and not callable(score):
            raise TypeError(
                f"`score` must be callable or `None`. Received: {score!r}"
            )
        self.segment_end_token_ids = tuple(segment_end_token_ids)
        self.threshold = check_value("threshold", threshold)
        self.score = score

    def call(self, batch, student, teacher, stop_token_ids=(), training_step=0):
        for model in (student, teacher):
            if not model.can_roll_back:
                raise ValueError(
                    "`Segments` needs models that can roll back, and "
                    f"{type(model.model).__name__} is recurrent."
                )
        _check_same_prompts(batch, "`Segments`")
        sequences = SegmentDecoder(
            student,
            teacher,
            self.student_sampler,
            self.teacher_sampler,
            self.score or _mean_log_prob,
            value_at(self.threshold, training_step),
            Prompts(batch),
            self.segment_end_token_ids,
            stop_token_ids,
        )()
        return self._speculative(sequences.to_rollout())

    def get_config(self) -> dict:
        return {
            "segment_end_token_ids": self.segment_end_token_ids,
            "threshold": serialize_value(self.threshold),
            "score": keras.saving.serialize_keras_object(self.score),
            **super().get_config(),
        }

    @classmethod
    def from_config(cls, config: dict):
        score = keras.saving.deserialize_keras_object(config["score"])
        return cls(**{**config, "score": score})


def _mean_log_prob(token_ids, segment, log_probs):
    tokens = ops.sum(ops.cast(segment, "float32"), axis=1)
    return ops.sum(log_probs, axis=1) / ops.maximum(tokens, 1.0)


def _check_num_drafts(value):
    if not is_integer(value):
        raise TypeError(
            "`num_speculative_tokens` must be an int or 'auto'. Received: "
            f"{value!r} of type {type(value).__name__}"
        )
    return check_integer("num_speculative_tokens", value, minimum=1)


def _check_distribution(name, sampler, rule):
    if not draws_from_known_distribution(sampler):
        raise ValueError(
            f"`{name}` must be 'random', 'greedy', 'top_k' or 'top_p', since "
            f"`acceptance={type(rule).__name__}` compares the distributions "
            f"that the samplers draw from. Received: {type(sampler).__name__}, "
            "whose distribution is not known."
        )


def _check_same_prompts(batch, reader):
    if has_teacher_prompts(batch):
        raise ValueError(
            f'{reader} does not support "teacher_prompts": student and teacher '
            "read the same prompts. Use `Speculative` with "
            "`decoding='ragged'` and models that are not recurrent."
        )
