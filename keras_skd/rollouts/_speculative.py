import keras
import keras_hub

from keras_skd import acceptance as rules
from keras_skd.decoding import NumDrafts
from keras_skd.decoding import Prompts
from keras_skd.decoding import TeacherView
from keras_skd.decoding import _lockstep as lockstep
from keras_skd.decoding import _ragged as ragged
from keras_skd.decoding import derive_seed
from keras_skd.decoding import finish
from keras_skd.decoding import get_sampler
from keras_skd.rollouts._rollout import Rollout

# What "auto" chooses between: each is one more width of teacher pass to
# compile.
_CHOICES = (1, 4, 16)

_ARGMAX = keras_hub.samplers.GreedySampler()


@keras.saving.register_keras_serializable(package="keras_skd")
class Speculative(Rollout):
    """Student and teacher write in turn: speculative knowledge distillation.

    The student proposes tokens; those that the teacher would hardly say are
    replaced by the teacher's own. Early in training that is mostly the
    teacher's text, later mostly the student's, without a schedule.

    Args:
        acceptance: a `keras_skd.acceptance.AcceptanceRule` or its name, when
            the teacher lets a drafted token stand. Defaults to the paper's
            `TopK(25)`.
        num_speculative_tokens: int or `"auto"`. How many tokens the student
            drafts before the teacher reads them. It changes the speed, never
            the distribution of what is written. `"auto"` follows the
            acceptance rate. Defaults to `"auto"`.
        student_sampler: a `keras_hub.samplers.Sampler` or its name, how the
            student drafts. Defaults to `"random"`.
        teacher_sampler: a `keras_hub.samplers.Sampler` or its name, how the
            teacher replaces. Defaults to `"random"`.
        replace: `"sample"` (the teacher's sampler draws the replacement) or
            `"argmax"` (its likeliest token).
        decoding: `"ragged"` (each row at its own position), `"lockstep"` (one
            token at a time) or `"auto"`, which is `"ragged"` unless one of the
            models is recurrent and cannot take tokens back.

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

    tests_drafts = True

    # Whether the teacher adds a token where all drafts stand. Not in
    # distillation: the student would not have proposed it.
    _bonus = False

    def __init__(
        self,
        acceptance: str | rules.AcceptanceRule | None = None,
        num_speculative_tokens: int | str = "auto",
        student_sampler: str | keras_hub.samplers.Sampler = "random",
        teacher_sampler: str | keras_hub.samplers.Sampler = "random",
        replace: str = "sample",
        decoding: str = "auto",
    ):
        if num_speculative_tokens != "auto":
            _check_num_speculative_tokens(num_speculative_tokens)
        if replace not in ("sample", "argmax"):
            raise ValueError(
                f"`replace` must be 'sample' or 'argmax'. Received: {replace!r}"
            )
        if decoding not in ("auto", "ragged", "lockstep"):
            raise ValueError(
                "`decoding` must be 'auto', 'ragged' or 'lockstep'. Received: "
                f"{decoding!r}"
            )
        self.acceptance = rules.get(
            rules.TopK(25) if acceptance is None else acceptance
        )
        self.num_speculative_tokens = num_speculative_tokens
        self.student_sampler = get_sampler(student_sampler, "student_sampler")
        self.teacher_sampler = get_sampler(teacher_sampler, "teacher_sampler")
        self.replace = replace
        self.decoding = decoding
        self._num_drafts = NumDrafts(
            _CHOICES
            if num_speculative_tokens == "auto"
            else [num_speculative_tokens]
        )

    def samplers(self):
        return {
            "student_sampler": self.student_sampler,
            "teacher_sampler": self.teacher_sampler,
        }

    @property
    def variables(self):
        return [
            *super().variables,
            *self.acceptance.variables,
            *self._num_drafts.variables,
        ]

    def set_seed(self, seed):
        super().set_seed(seed)
        self.acceptance.set_seed(derive_seed(seed, "acceptance"))

    def call(self, batch, student, teacher, stop_token_ids=(), training_step=0):
        gate = rules.Gate(
            self.acceptance,
            self.student_sampler,
            _ARGMAX if self.replace == "argmax" else self.teacher_sampler,
            training_step,
        )
        prompts = Prompts(batch)
        view = TeacherView(batch) if "teacher_token_ids" in batch else None
        if not self._in_lockstep(student, teacher):
            written = ragged.speculate(
                student,
                teacher,
                gate,
                prompts,
                self._num_drafts,
                stop_token_ids,
                teacher_prompts=None if view is None else view.prompts,
                bonus=self._bonus,
            )
        elif view is None:
            written = lockstep.speculate(
                student, teacher, gate, prompts, stop_token_ids
            )
        else:
            raise ValueError(
                'The data has "teacher_prompts", and in lock-step decoding '
                "student and teacher read at the same positions. Use "
                "`decoding='ragged'`, with models that are not recurrent."
            )
        rollout = finish(written.pop("token_ids"), written.pop("sources"))
        # Every token was drafted and tested: it stands or it was replaced.
        return {**rollout, **written, "tested": rollout["response_mask"]}

    def _in_lockstep(self, student, teacher):
        for model in (student, teacher):
            if not model.can_roll_back:
                if self.decoding != "ragged":
                    return True
                raise ValueError(
                    "`decoding='ragged'` needs models that can take tokens "
                    f"back, and {type(model.model).__name__} is recurrent. "
                    "Use 'lockstep' or 'auto'."
                )
        return self.decoding == "lockstep"

    def get_config(self):
        config = super().get_config()
        config.update(
            {
                "acceptance": keras.saving.serialize_keras_object(
                    self.acceptance
                ),
                "num_speculative_tokens": self.num_speculative_tokens,
                "replace": self.replace,
                "decoding": self.decoding,
            }
        )
        return config


def _check_num_speculative_tokens(value):
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(
            "`num_speculative_tokens` must be an int or 'auto'. Received: "
            f"{value!r} of type {type(value).__name__}"
        )
    if value < 1:
        raise ValueError(
            f"`num_speculative_tokens` must be at least 1. Received: {value}"
        )
