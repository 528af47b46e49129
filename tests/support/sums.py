"""A task of the experiments that needs no download."""

from experiments.tasks import arithmetic


class Sums(arithmetic.Arithmetic):
    """Sums of two digits."""

    sequence_length = 14
    num_test = num_development = 4

    def load(self):
        digits = range(10)
        return [arithmetic.worked(f"{a} + {b}") for a in digits for b in digits]
