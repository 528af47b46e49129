"""Counts skipped and empty rows of the data, and reports them once."""

import typing
import warnings

import numpy as np


class RowCounts(typing.NamedTuple):
    """The numbers of rows of a batch.

    Attributes:
        long: int. Rows skipped since their prompt leaves no room for a
            response.
        empty: int. Rows skipped since their prompt or response is empty.
        silent: int. Rows kept with an empty response.
        total: int. All rows.
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
        """Counts one batch. If it is read again, its new count replaces it."""
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
                "response: only its end token is trained on. "
                "`Distiller(empty_rows='skip')` leaves such rows out."
            )

    def _warn(self, message):
        warnings.warn(message, stacklevel=3)
