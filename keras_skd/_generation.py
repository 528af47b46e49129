import keras_hub

from keras_skd import _source as sources
from keras_skd.acceptance import Lossless
from keras_skd.decoding import get_sampler
from keras_skd.rollouts import Speculative


class Generation(Speculative):
    """Lossless speculative decoding: the teacher's text, drafted by a student.

    Unlike in distillation, the teacher adds a token of its own where all drafts
    stand: one more token for the same number of teacher passes.
    """

    _bonus = True

    def __init__(self, sampler: str | keras_hub.samplers.Sampler, seed=None):
        sampler = get_sampler(sampler, "sampler")
        super().__init__(
            # Seeded below: never as one of the samplers.
            acceptance=Lossless(),
            student_sampler=sampler,
            teacher_sampler=sampler,
        )
        if seed is not None:
            self.set_seed(seed)


def statistics(rollout: dict) -> dict:
    """How well the student drafted.

    Args:
        rollout: dict of NumPy arrays, what `Generation` returned.

    Returns:
        dict of floats: `"acceptance_rate"` (accepted over tested drafts) and
        `"tokens_per_teacher_call"` (for one row).
    """
    accepted = (rollout["sources"] == sources.STUDENT).sum()
    return {
        "acceptance_rate": float(accepted / rollout["drafts_tested"].sum()),
        "tokens_per_teacher_call": float(
            rollout["response_mask"].sum() / rollout["teacher_calls"].sum()
        ),
    }
