from keras import ops

from keras_skd.decoding import log_probabilities
from keras_skd.decoding import sample


class Gate:
    """Who drafts, what stands and who replaces, at one training step.

    Args:
        rule: an `AcceptanceRule`.
        student_sampler: how the student drafts.
        teacher_sampler: how the teacher replaces.
        training_step: int tensor, for the rule's schedules.
    """

    def __init__(self, rule, student_sampler, teacher_sampler, training_step):
        self.rule = rule
        self.student_sampler = student_sampler
        self.teacher_sampler = teacher_sampler
        self.training_step = training_step
        self.needs_student_logits = rule.compares_distributions

    @property
    def variables(self):
        return [
            *self.student_sampler.variables,
            *self.teacher_sampler.variables,
            *self.rule.variables,
        ]

    def draft(self, student_logits):
        """One token a row, of shape `(batch,)`."""
        return sample(self.student_sampler, student_logits)

    def accept(self, token_ids, teacher_logits, student_logits=None):
        """Whether each drafted token stands, of the shape of `token_ids`."""
        return self.rule.accept(
            token_ids,
            *self._as_the_rule_sees(teacher_logits, student_logits),
            training_step=self.training_step,
        )

    def replace(self, teacher_logits, student_logits=None, drafted=None):
        """The teacher's own token, of shape `(batch,)`.

        Args:
            teacher_logits: float tensor of shape `(batch, vocabulary_size)`.
            student_logits: the student's, if `needs_student_logits`.
            drafted: bool tensor of shape `(batch,)`. Whether a draft was
                rejected there, or nobody proposed anything. Defaults to
                `None`, always a draft.
        """
        if not self.rule.compares_distributions:
            return sample(self.teacher_sampler, teacher_logits)
        teacher, student = self._as_the_rule_sees(
            teacher_logits, student_logits
        )
        if drafted is not None:
            student = ops.where(drafted[:, None], student, -1e30)
        return self.rule.sample_replacement(teacher, student)

    def _as_the_rule_sees(self, teacher_logits, student_logits):
        if not self.rule.compares_distributions:
            return teacher_logits, None
        return (
            log_probabilities(self.teacher_sampler, teacher_logits),
            log_probabilities(self.student_sampler, student_logits),
        )
