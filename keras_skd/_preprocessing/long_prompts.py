"""The handling of prompts that leave no room for a response."""

import warnings

import numpy as np

RULES = ("error", "skip", "truncate_left", "truncate_right")


class LongPrompts:
    """Refuses, skips or truncates prompts that do not fit.

    Args:
        rule: str. `"error"`, `"skip"`, `"truncate_left"` or
            `"truncate_right"`, the side that tokens are dropped from.
    """

    def __init__(self, rule="error"):
        if rule not in RULES:
            raise ValueError(
                f"`long_prompts` must be one of {list(RULES)}. Received: "
                f"{rule!r}"
            )
        self.rule = rule

    def fit(self, lengths, room, explain):
        """Decides what happens to each prompt.

        Args:
            lengths: int array of shape `(batch,)`, the tokens of each prompt.
            room: int or int array, the largest number that it may have.
            explain: callable from the index of a row to the error message.

        Returns:
            `(kept, excess)`: whether each row is kept, and how many tokens
            `truncate` must drop from it.
        """
        excess = np.maximum(lengths - room, 0)
        refused = excess > 0
        if self.rule == "skip":
            return ~refused, np.zeros_like(excess)
        if self.rule != "error":
            refused &= room < 1
        if refused.any():
            raise ValueError(explain(int(np.argmax(refused))))
        return np.ones_like(refused), excess

    def truncate(self, row, excess, num_start=0):
        """Drops tokens of a list, but none of the first `num_start`."""
        if self.rule == "truncate_right":
            return row[: len(row) - excess]
        return row[:num_start] + row[num_start + excess :]


class SkippedPrompts:
    """Counts the prompts that were skipped, and reports them once."""

    def __init__(self, argument):
        self.argument = argument
        self.counts = {}
        self.reported = False

    def count(self, batch, packed, index=0):
        """Counts one batch. If it is read again, its new count replaces it."""
        if not self.reported:
            total = len(next(iter(batch.values())))
            self.counts[index] = total - len(packed["token_ids"]), total

    def report(self):
        skipped, total = np.sum([(0, 0), *self.counts.values()], axis=0)
        if skipped and not self.reported:
            self.reported = True
            warnings.warn(
                f"Skipped {skipped} of {total} prompts in `{self.argument}` "
                "that leave no room for a response (`long_prompts='skip'`).",
                stacklevel=2,
            )
