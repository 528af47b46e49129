import keras
from keras import ops

# A teacher pass over n + 1 tokens a row costs about 1 + 0.15 n of a pass over
# one: measured on a CPU with batches of 8.
_COST_PER_TOKEN = 0.15

# How many tests the estimate of the acceptance rate remembers.
_MEMORY = 64.0


class NumDrafts:
    """How many tokens the student drafts before the teacher reads them.

    With several choices, each round takes the one that is expected to cost
    least per written token, at the acceptance rate seen so far: a student that
    is rejected nearly always drafts one token, one that is accepted nearly
    always many.

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
    def variables(self):
        return [self.estimate] if len(self.choices) > 1 else []

    def initial(self):
        """The acceptance rate to begin a batch with, a scalar."""
        return ops.copy(self.estimate)

    def __call__(self, acceptance, student_cost):
        """The number of drafts of the next round, an int scalar.

        Args:
            acceptance: float scalar, the acceptance rate.
            student_cost: float. What a student step costs, in teacher steps.
        """
        choices = ops.array(self.choices, dtype="int32")
        if len(self.choices) == 1:
            return choices[0]
        n = ops.cast(choices, "float32")
        cost = n * student_cost + 1.0 + (n - 1.0) * _COST_PER_TOKEN
        # The i-th draft is tested if all before it stood; each test writes a
        # token.
        acceptance = ops.clip(acceptance, 0.0, 0.999)
        written = (1.0 - acceptance**n) / (1.0 - acceptance)
        return choices[ops.argmin(cost / written)]

    def update(self, acceptance, accepted, tested):
        """The acceptance rate after a round, from its counts a row."""
        if len(self.choices) == 1:
            return acceptance
        accepted = ops.sum(ops.cast(accepted, "float32"))
        tested = ops.sum(ops.cast(tested, "float32"))
        return (acceptance * _MEMORY + accepted) / (_MEMORY + tested)

    def remember(self, acceptance):
        """Keeps the rate for the next batch."""
        if len(self.choices) > 1:
            self.estimate.assign(acceptance)
