"""What happens to rows in which there is nothing to learn."""

import numpy as np

RULES = ("keep", "skip", "error")


class EmptyRows:
    """Keeps, skips or refuses rows without a prompt or a response.

    Args:
        rule: str. `"keep"`, `"skip"` or `"error"`. A row without a token to
            continue from cannot be kept.
    """

    def __init__(self, rule="keep"):
        if rule not in RULES:
            raise ValueError(
                f"`empty_rows` must be one of {list(RULES)}. Received: {rule!r}"
            )
        self.rule = rule

    def find(self, lengths, without_text, key):
        """Decides which rows are skipped.

        Args:
            lengths: int array of shape `(batch,)`, the tokens of each prompt.
            without_text: bool array of shape `(batch,)`, which responses are
                empty.
            key: str. The column of the prompts, for the errors.

        Returns:
            A bool array of shape `(batch,)`.
        """
        no_prompt = lengths == 0
        if self.rule == "skip":
            return no_prompt | without_text
        if no_prompt.any():
            raise ValueError(
                f'"{key}" must have a token to continue from in every row. '
                "Received: a prompt of 0 tokens in row "
                f"{np.argmax(no_prompt)}. Add a start token or some text, or "
                'leave such rows out with `Distiller(empty_rows="skip")`.'
            )
        if self.rule == "error" and without_text.any():
            raise ValueError(
                "A row has an empty response. Received: nothing after the "
                f"prompt in row {np.argmax(without_text)}. Leave such rows out "
                'with `Distiller(empty_rows="skip")`, or train on their end '
                'token alone with `empty_rows="keep"`.'
            )
        return np.zeros_like(no_prompt)
