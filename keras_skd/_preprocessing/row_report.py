"""Rows of the data that are special, counted and reported once."""

import typing
import warnings

import numpy as np


class RowCounts(typing.NamedTuple):
    """How many rows of a batch there are of each kind.

    Attributes:
        long: int. Those skipped because their prompts leave no room for a
            response.
        empty: int. Those skipped because they have no prompt or no response.
        silent: int. Those kept with an empty response.
        total: int. All of the batch.
    """

    long: int = 0
    empty: int = 0
    silent: int = 0
    total: int = 0


class RowReport:
    """Adds up the counts of batches, and reports them once.

    Args:
        argument: str. The argument that the data came from.
    """

    def __init__(self, argument):
        self.argument = argument
        self.counts = {}
        self.reported = False

    def count(self, counts, index=0):
        """Counts one batch, again if it is read again."""
        if not self.reported:
            self.counts[index] = counts

    def report(self):
        counts = [RowCounts(), *self.counts.values()]
        long, empty, silent, total = np.sum(counts, axis=0)
        if self.reported or not long + empty + silent:
            return
        self.reported = True
        if long:
            self._warn(
                f"Skipped {long} of {total} prompts in `{self.argument}` that "
                "leave no room for a response (`long_prompts='skip'`)."
            )
        if empty:
            self._warn(
                f"Skipped {empty} of {total} rows in `{self.argument}` without "
                "a prompt or a response (`empty_rows='skip'`)."
            )
        if silent:
            self._warn(
                f"{silent} of {total} rows in `{self.argument}` have an empty "
                "response: no more than its end token is trained. "
                "`Distiller(empty_rows='skip')` leaves such rows out."
            )

    def _warn(self, message):
        warnings.warn(message, stacklevel=3)
