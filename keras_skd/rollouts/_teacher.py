import keras
import keras_hub
from keras import ops

from keras_skd import _source as sources
from keras_skd.decoding import Prompts
from keras_skd.decoding import TeacherView
from keras_skd.decoding import _lockstep as lockstep
from keras_skd.decoding import _ragged as ragged
from keras_skd.decoding import columns
from keras_skd.decoding import finish
from keras_skd.decoding import get_sampler
from keras_skd.rollouts._rollout import Rollout


@keras.saving.register_keras_serializable(package="keras_skd")
class Teacher(Rollout):
    """The teacher writes alone: sequence-level knowledge distillation.

    With `keras_skd.losses.CrossEntropy` the student learns the teacher's
    tokens (SeqKD), with a divergence its distributions.

    Args:
        teacher_sampler: a `keras_hub.samplers.Sampler` or its name. Defaults
            to `"random"`.

    Example:

    ```python
    rollout = keras_skd.rollouts.Teacher(teacher_sampler="greedy")
    distiller = keras_skd.Distiller(teacher, student, rollout=rollout)
    distiller.compile(optimizer="adam", loss="cross_entropy")
    ```

    Reference:

    - [Kim & Rush, 2016](https://arxiv.org/abs/1606.07947), section 3.2.
    """

    def __init__(
        self, teacher_sampler: str | keras_hub.samplers.Sampler = "random"
    ):
        self.teacher_sampler = get_sampler(teacher_sampler, "teacher_sampler")

    def samplers(self):
        return {"teacher_sampler": self.teacher_sampler}

    def call(self, batch, student, teacher, stop_token_ids=(), training_step=0):
        decoding = ragged if teacher.can_roll_back else lockstep
        view = TeacherView(batch) if "teacher_token_ids" in batch else None
        written = decoding.write(
            teacher,
            self.teacher_sampler,
            Prompts(batch) if view is None else view.prompts,
            sources.TEACHER,
            stop_token_ids,
        )
        if view is None:
            return finish(**written)
        token_ids, token_sources = (
            view.back(written[key]) for key in ("token_ids", "sources")
        )
        prompts = view.student_prompts
        in_prompt = columns(token_ids) < prompts.lengths[:, None]
        return finish(
            ops.where(in_prompt, prompts.token_ids, token_ids),
            ops.where(in_prompt, sources.PROMPT, token_sources),
        )
