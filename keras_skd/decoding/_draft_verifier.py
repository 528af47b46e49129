"""Drafts, accepts and replaces tokens."""

from keras import ops

from keras_skd._log_space import LOG_ZERO
from keras_skd.acceptance import DistributionRule
from keras_skd.acceptance import Lossless
from keras_skd.decoding._sampling import is_greedy
from keras_skd.decoding._sampling import log_probabilities
from keras_skd.decoding._sampling import sample
from keras_skd.decoding._sampling import sample_log_probabilities


class DraftVerifier:
    """An acceptance rule with the two samplers, at one training step.

    Args:
        rule: a `TeacherRule` or a `DistributionRule`.
        student_sampler: the `keras_hub.samplers.Sampler` of drafts.
        teacher_sampler: the `keras_hub.samplers.Sampler` of replacements.
        training_step: int tensor, for the schedules of the rule.

    Attributes:
        compares_distributions: bool. Whether the student's logits are needed.
    """

    def __init__(self, rule, student_sampler, teacher_sampler, training_step=0):
        self.rule = rule
        self.student_sampler = student_sampler
        self.teacher_sampler = teacher_sampler
        self.training_step = training_step
        # Of a greedy teacher, lossless decoding accepts the likeliest token
        # alone. That takes no distributions, which are large.
        self.accepts_likeliest = isinstance(rule, Lossless) and is_greedy(
            teacher_sampler
        )
        self.compares_distributions = (
            isinstance(rule, DistributionRule) and not self.accepts_likeliest
        )

    @property
    def variables(self) -> list:
        return [
            *self.student_sampler.variables,
            *self.teacher_sampler.variables,
            *self.rule.variables,
        ]

    def draft(self, student_logits):
        """Draws a token from logits `(batch, vocabulary_size)`."""
        if not self.compares_distributions:
            return sample(self.student_sampler, student_logits)
        # Draws from the distribution that the rule compares: where tokens tie,
        # KerasHub's samplers keep different ones on some backends.
        return sample_log_probabilities(
            self.student_sampler,
            log_probabilities(self.student_sampler, student_logits),
        )

    def distributions(self, teacher_logits, student_logits=None) -> list:
        """The inputs of the rule, of shape `(..., vocabulary_size)`.

        These are the teacher's raw logits; or, for a rule that compares
        distributions, the log-probabilities that the two samplers draw from.
        """
        if not self.compares_distributions:
            return [teacher_logits]
        return [
            log_probabilities(self.teacher_sampler, teacher_logits),
            log_probabilities(self.student_sampler, student_logits),
        ]

    def accept(self, token_ids, distributions):
        """Whether each drafted token is accepted."""
        if self.accepts_likeliest:
            return token_ids == sample(self.teacher_sampler, *distributions)
        return self.rule.accept(
            token_ids, *distributions, training_step=self.training_step
        )

    def replace(self, distributions, is_draft):
        """Draws the teacher's own token, of shape `(batch,)`.

        Args:
            distributions: those of `distributions()` at one position, of shape
                `(batch, vocabulary_size)`.
            is_draft: bool tensor of shape `(batch,)`. Whether the position
                holds a draft.
        """
        if not self.compares_distributions:
            return sample(self.teacher_sampler, *distributions)
        teacher, student = distributions
        student = ops.where(is_draft[:, None], student, LOG_ZERO)
        return self.rule.sample_replacement(
            teacher, student, training_step=self.training_step
        )
