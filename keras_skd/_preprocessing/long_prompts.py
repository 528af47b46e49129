"""The handling of prompts that leave no room for a response."""

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
