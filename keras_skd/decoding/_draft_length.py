"""The number of tokens that the student drafts in a round."""

import keras
from keras import ops

# A teacher pass over n + 1 tokens a row takes about 1 + 0.15 n times as long as
# one over a single token: measured on a CPU with batches of 8.
_COST_PER_TOKEN = 0.15

# The number of past tests that the estimate of the acceptance rate averages.
_MEMORY = 64.0


class DraftLength:
    """The policy for the number of drafts in a round.

    With several choices, each round takes the one with the lowest expected
    cost per written token, at the acceptance rate seen so far: a student that
    is nearly always rejected drafts one token, one that is nearly always
    accepted drafts many.

    Args:
        choices: list of ints, ascending.
    """

    def __init__(self, choices):
        self.choices = list(choices)
        # Carried from one batch to the next.
        self.estimate = keras.Variable(
            0.5, trainable=False, dtype="float32", name="acceptance_estimate"
        )

    @property
    def variables(self) -> list:
        return [self.estimate] if len(self.choices) > 1 else []

    def init(self):
        """The acceptance rate at the start of a batch.

        `()` where there is no choice, rather than a constant: `Prompts` says
        why.
        """
        # Read only where it is listed: it may be on a different device.
        return ops.copy(self.estimate) if self.variables else ()

    def choose(self, acceptance_rate, student_cost: float, bonus: int = 0):
        """The number of drafts in the next round, an int32 scalar.

        Args:
            acceptance_rate: float scalar, or `()` where there is no choice.
            student_cost: float. The cost of a student step, in teacher steps.
            bonus: int. The number of tokens that the teacher adds where all
                drafts are accepted. Defaults to 0.
        """
        choices = ops.array(self.choices, dtype="int32")
        if len(self.choices) == 1:
            return choices[0]
        n = ops.cast(choices, "float32")
        width = n + bonus
        cost = n * student_cost + 1.0 + (width - 1.0) * _COST_PER_TOKEN
        # The i-th draft is tested if all before it were accepted; each test
        # writes a token.
        rate = ops.clip(acceptance_rate, 0.0, 0.999)
        written = (1.0 - rate**width) / (1.0 - rate)
        return choices[ops.argmin(cost / written)]

    def update(self, acceptance_rate, accepted, tested):
        """The acceptance rate after a round, given the counts of each row."""
        if len(self.choices) == 1:
            return acceptance_rate
        accepted = ops.sum(ops.cast(accepted, "float32"))
        tested = ops.sum(ops.cast(tested, "float32"))
        return (acceptance_rate * _MEMORY + accepted) / (_MEMORY + tested)

    def commit(self, acceptance_rate):
        """Keeps the rate for the next batch."""
        if len(self.choices) > 1:
            self.estimate.assign(acceptance_rate)
