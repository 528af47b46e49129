import keras
import keras_hub

from keras_skd import acceptance as rules
from keras_skd.decoding import finish
from keras_skd.decoding import get_sampler
from keras_skd.decoding import lockstep
from keras_skd.decoding import prompts_only
from keras_skd.decoding import ragged
from keras_skd.rollouts.rollout import Rollout


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
        num_speculative_tokens: int. How many tokens the student drafts before
            the teacher reads them. It changes the speed, never what is
            written. Defaults to 5.
        student_sampler: a `keras_hub.samplers.Sampler` or its name, how the
            student drafts. Defaults to `"random"`.
        teacher_sampler: a `keras_hub.samplers.Sampler` or its name, how the
            teacher replaces. Defaults to `"random"`.
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

    def __init__(
        self,
        acceptance: str | rules.AcceptanceRule | None = None,
        num_speculative_tokens: int = 5,
        student_sampler: str | keras_hub.samplers.Sampler = "random",
        teacher_sampler: str | keras_hub.samplers.Sampler = "random",
        decoding: str = "auto",
    ):
        if isinstance(num_speculative_tokens, bool) or not isinstance(
            num_speculative_tokens, int
        ):
            raise TypeError(
                "`num_speculative_tokens` must be an int. Received: "
                f"{num_speculative_tokens!r} of type "
                f"{type(num_speculative_tokens).__name__}"
            )
        if num_speculative_tokens < 1:
            raise ValueError(
                "`num_speculative_tokens` must be at least 1. Received: "
                f"{num_speculative_tokens}"
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
        self.decoding = decoding

    def samplers(self):
        return {
            "student_sampler": self.student_sampler,
            "teacher_sampler": self.teacher_sampler,
        }

    def call(self, batch, student, teacher, stop_token_ids=None):
        token_ids, lengths = prompts_only(batch)
        can_roll_back = student.can_roll_back and teacher.can_roll_back
        if self.decoding == "ragged" and not can_roll_back:
            recurrent = teacher if student.can_roll_back else student
            raise ValueError(
                "`decoding='ragged'` needs models that can take tokens back, "
                f"and {type(recurrent.model).__name__} is recurrent. Use "
                "'lockstep' or 'auto'."
            )
        models = (student, teacher, self.student_sampler, self.teacher_sampler)
        if self.decoding == "lockstep" or not can_roll_back:
            written = lockstep.speculate(
                *models, self.acceptance, token_ids, lengths, stop_token_ids
            )
        else:
            written = ragged.speculate(
                *models,
                self.acceptance,
                self.num_speculative_tokens,
                token_ids,
                lengths,
                stop_token_ids,
            )
        written = finish(*written)
        # Every token was drafted and tested: it stands or it was replaced.
        return {**written, "tested": written["response_mask"]}

    def get_config(self):
        config = super().get_config()
        config.update(
            {
                "acceptance": keras.saving.serialize_keras_object(
                    self.acceptance
                ),
                "num_speculative_tokens": self.num_speculative_tokens,
                "decoding": self.decoding,
            }
        )
        return config
