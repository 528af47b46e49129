"""How many passes of student and teacher a training step takes for a row."""

import typing

from keras_skd import rollouts


class Passes(typing.NamedTuple):
    """Passes one after the other, each over one token or a few."""

    student: float
    teacher: float


def passes(rollout, loss, logs, step):
    """The mean passes for a row in a training step, writing and learning.

    Drafts that are discarded after a rejected one are not counted.

    Args:
        rollout: a `keras_skd.rollouts.Rollout`.
        loss: a `keras_skd.losses.DistillationLoss`.
        logs: dict, the logs of the steps.
        step: int, the first of these steps, for rollouts that switch.

    Returns:
        `Passes`.
    """
    student, teacher, verified = _writing(rollout, logs, step)
    # A whole pass for the loss, unless the rollout has verified each token.
    teacher += loss.needs_teacher * (1 - verified)
    return Passes(student + 1, teacher)


def _writing(rollout, logs, step):
    """Passes of the student and the teacher, and the share of verified rows."""
    length = logs["response_length"]
    if isinstance(rollout, rollouts.Switch):
        chosen = rollout.first if step < rollout.at_step else rollout.then
        return _writing(chosen, logs, step)
    if isinstance(rollout, rollouts.Mixture):
        total = sum(rollout.rollouts.values())
        parts = [
            [weight / total * part for part in _writing(each, logs, step)]
            for each, weight in rollout.rollouts.items()
        ]
        return tuple(map(sum, zip(*parts)))
    if isinstance(rollout, rollouts.Speculative):
        return length, length / logs["tokens_per_teacher_pass"], 1
    if isinstance(rollout, rollouts.OnPolicy):
        return length, 0, 0
    if isinstance(rollout, rollouts.Supervised):
        return 0, 0, 0
    return 0, length, 0
