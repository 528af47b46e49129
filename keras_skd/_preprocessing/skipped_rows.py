"""Rows of the data that nobody trains on, counted and reported once."""

import typing
import warnings

import numpy as np


class Skipped(typing.NamedTuple):
    """How many rows of a batch were skipped.

    Attributes:
        long: int. Those whose prompts leave no room for a response.
        empty: int. Those without a prompt or a response.
        total: int. All rows of the batch, the others included.
    """

    long: int = 0
    empty: int = 0
    total: int = 0


class SkippedRows:
    """Adds up what was skipped, and reports it once.

    Args:
        argument: str. The argument that the data came from.
    """

    def __init__(self, argument):
        self.argument = argument
        self.counts = {}
        self.reported = False

    def count(self, skipped, index=0):
        """Counts one batch, again if it is read again."""
        if not self.reported:
            self.counts[index] = skipped

    def report(self):
        counts = [Skipped(), *self.counts.values()]
        long, empty, total = np.sum(counts, axis=0)
        if self.reported or not long + empty:
            return
        self.reported = True
        if long:
            warnings.warn(
                f"Skipped {long} of {total} prompts in `{self.argument}` that "
                "leave no room for a response (`long_prompts='skip'`).",
                stacklevel=2,
            )
        if empty:
            warnings.warn(
                f"Skipped {empty} of {total} rows in `{self.argument}` without "
                "a prompt or a response (`empty_rows='skip'`).",
                stacklevel=2,
            )
