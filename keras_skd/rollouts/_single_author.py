"""Rollouts in which one author writes whole responses."""

import keras_hub
from keras import ops

from keras_skd._source import Source
from keras_skd.decoding import Prompts
from keras_skd.decoding import rollout_of
from keras_skd.decoding import write
from keras_skd.decoding._prompts import columns
from keras_skd.decoding._prompts import to_student_positions
from keras_skd.decoding._sampling import get_sampler
from keras_skd.decoding._sequences import is_stop
from keras_skd.decoding._sequences import up_to_first
from keras_skd.rollouts._rollout import _ROLLOUTS
from keras_skd.rollouts._rollout import Rollout


@_ROLLOUTS.register("supervised")
class Supervised(Rollout):
    """Takes the responses of the data: supervised knowledge distillation.

    Nothing is sampled. The student learns the teacher's distribution at every
    token of the given response, up to and including its first stop token. Where
    a chat has several responses (`Distiller(assistant_turns="all")`), it is the
    first of the last response, and the others are taken as they are.

    Example:

    ```python
    distiller = keras_skd.Distiller(
        teacher, student, rollout=keras_skd.rollouts.Supervised()
    )
    distiller.compile(optimizer="adam", loss="forward_kl")
    distiller.fit({"prompts": ["2 + 2 ="], "responses": [" 4"]})
    ```

    Reference:

    - [Sanh et al., 2019](https://arxiv.org/abs/1910.01108), on sequences.
    """

    needs_responses = True
    needs_teacher = False

    def call(self, batch, student, teacher, stop_token_ids=(), training_step=0):
        token_ids = ops.cast(batch["token_ids"], "int32")
        padding_mask = ops.cast(batch["padding_mask"], "bool")
        response = ops.cast(batch["response_mask"], "bool") & padding_mask
        # Of several responses, each but the last ends where others go on.
        others = ops.cast(padding_mask & ~response, "int32")
        goes_on = ops.cumsum(others, axis=1) < ops.sum(
            others, axis=1, keepdims=True
        )
        stops = response & ~goes_on & is_stop(token_ids, stop_token_ids)
        sources = ops.where(response, Source.DATA.value, Source.PROMPT.value)
        keep = padding_mask & up_to_first(stops)
        return rollout_of(
            token_ids, ops.where(keep, sources, Source.PADDING.value)
        )


@_ROLLOUTS.register("on_policy")
class OnPolicy(Rollout):
    """The student writes alone: on-policy knowledge distillation.

    Args:
        student_sampler: a `keras_hub.samplers.Sampler` or its name. Defaults
            to `"random"`.

    Example:

    ```python
    rollout = keras_skd.rollouts.OnPolicy(
        student_sampler=keras_hub.samplers.TopPSampler(p=0.9)
    )
    distiller = keras_skd.Distiller(teacher, student, rollout=rollout)
    ```

    Reference:

    - [Agarwal et al., 2023](https://arxiv.org/abs/2306.13649), lambda = 1.
    """

    needs_teacher = False

    def __init__(
        self, student_sampler: str | keras_hub.samplers.Sampler = "random"
    ):
        self.student_sampler = get_sampler(student_sampler, "student_sampler")

    def samplers(self) -> dict:
        return {"student_sampler": self.student_sampler}

    def call(self, batch, student, teacher, stop_token_ids=(), training_step=0):
        return write(
            student,
            self.student_sampler,
            Prompts(batch),
            Source.STUDENT,
            stop_token_ids,
        ).to_rollout()


@_ROLLOUTS.register("teacher")
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

    def samplers(self) -> dict:
        return {"teacher_sampler": self.teacher_sampler}

    def call(self, batch, student, teacher, stop_token_ids=(), training_step=0):
        prompts = Prompts(batch)
        sequences = write(
            teacher,
            self.teacher_sampler,
            prompts.teacher,
            Source.TEACHER,
            stop_token_ids,
        )
        if prompts.teacher is prompts:
            return sequences.to_rollout()
        # The student gets the responses, after prompts of its own.
        token_ids, sources = (
            to_student_positions(x, prompts.offsets, prompts.sequence_length)
            for x in (sequences.token_ids, sequences.sources)
        )
        in_prompt = columns(token_ids) < prompts.lengths[:, None]
        return rollout_of(
            ops.where(in_prompt, prompts.token_ids, token_ids),
            ops.where(in_prompt, Source.PROMPT.value, sources),
        )
