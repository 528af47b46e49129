import html
import itertools

import numpy as np

from keras_skd._source import Source
from keras_skd.visualization._token_text import check_rollout
from keras_skd.visualization._token_text import find_tokenizer
from keras_skd.visualization._token_text import row_tokens

# The style and the name in the legend of each author. The teacher's tokens are
# underlined, for colour-blind people.
_STYLES = {
    Source.PROMPT: ("color:inherit;opacity:0.65", "prompt"),
    Source.STUDENT: ("background:#cfe3ff;color:#111", "student"),
    Source.TEACHER: (
        "background:#ffd8a8;color:#111;border-bottom:2px solid #b35900",
        "teacher",
    ),
    Source.DATA: ("background:#d3efd0;color:#111", "data"),
}
_ROW = (
    "white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.7;"
    "font-family:ui-monospace,monospace;padding:0.5em 0;"
    "border-top:1px solid #8884"
)
# Around a run of tokens in plain text.
_MARKS = {
    Source.PROMPT: "{}\n> ",
    Source.TEACHER: "[{}]",
    Source.DATA: "{{{}}}",
}
_COLORS = {
    Source.PROMPT: "\033[2m{}\033[0m",
    Source.STUDENT: "\033[34m{}\033[0m",
    Source.TEACHER: "\033[1;35m{}\033[0m",
    Source.DATA: "\033[32m{}\033[0m",
}


class RolloutView:
    """A rollout with the author of each token, as HTML and as text.

    A notebook shows the HTML, `print` shows the text: the response after a `>`,
    the teacher's tokens in `[brackets]` and the data's in `{braces}`.

    Attributes:
        tokens: list with a list of tokens for each row, named tuples of
            `column`, `token_id`, `text` and `source`.
        notes: list with a list of strings for each row, the tooltips of the
            tokens.
        html: str. HTML without scripts or style sheets.
    """

    def __init__(self, tokens: list, notes: list):
        self.tokens = tokens
        self.notes = notes

    @property
    def html(self) -> str:
        present = {token.source for row in self.tokens for token in row}
        legend = " ".join(
            _span(name, source)
            for source, (_, name) in _STYLES.items()
            if source in present
        )
        rows = "".join(
            f'<div style="{_ROW}">{_row_html(row, notes)}</div>'
            for row, notes in zip(self.tokens, self.notes)
        )
        return f"<div><p>{legend}</p>{rows}</div>"

    def text(self, color: bool = False) -> str:
        """The rows as text.

        Args:
            color: bool. Whether to mark the authors with the colours of a
                terminal instead of brackets. Defaults to `False`.
        """
        return "\n\n".join(_row_text(row, color) for row in self.tokens)

    def _repr_html_(self):
        return self.html

    # Also what a notebook stores beside the HTML.
    def __repr__(self):
        return self.text()


def show_rollout(rollout: dict, tokenizer=None, rows=None) -> RolloutView:
    """Shows the author of each token of a rollout, by colours.

    If the rollout has `"teacher_ranks"` and `"teacher_probabilities"`, they are
    in the tooltip of each token.

    Args:
        rollout: dict of arrays, as `Distiller.generate_rollout` returns it.
        tokenizer: a `keras_hub.tokenizers.Tokenizer`, or a `Distiller`, causal
            LM or preprocessor with a tokenizer. Defaults to `None`, which shows
            the ids.
        rows: list of ints, the rows to show. Defaults to `None`, all of them.

    Returns:
        An object that a notebook shows, with the attribute `html`, a string.
        `str` and `print` give plain text: the response after a `>`, the
        teacher's tokens in `[brackets]` and the data's in `{braces}`.
        `.text(color=True)` has the colours of a terminal instead.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if `rollout` lacks tokens or their sources, or a row.

    Example:

    ```python
    rollout = distiller.generate_rollout(
        {"prompts": prompts}, return_teacher_scores=True
    )
    view = keras_skd.visualization.show_rollout(rollout, distiller)
    print(view)
    with open("rollout.html", "w", encoding="utf-8") as file:
        file.write(view.html)
    ```
    """
    check_rollout(rollout)
    num_rows = len(rollout["token_ids"])
    rows = list(range(num_rows) if rows is None else rows)
    wrong = [row for row in rows if row not in range(-num_rows, num_rows)]
    if wrong:
        raise ValueError(
            f"`rows` must be rows of the rollout, below {num_rows}. Received: "
            f"{wrong}"
        )
    tokens = row_tokens(rollout, find_tokenizer(tokenizer), rows)
    notes = [
        [_note(rollout, row, token) for token in row_of_tokens]
        for row, row_of_tokens in zip(rows, tokens)
    ]
    return RolloutView(tokens, notes)


def _note(rollout, row, token):
    """The tooltip of a token."""
    note = f"{_STYLES[token.source][1]}, token {token.token_id}"
    if token.source == Source.PROMPT or "teacher_ranks" not in rollout:
        return note
    rank = int(np.asarray(rollout["teacher_ranks"])[row, token.column])
    note = f"{note}; for the teacher: rank {rank}"
    if "teacher_probabilities" in rollout:
        probability = np.asarray(rollout["teacher_probabilities"])
        probability = float(probability[row, token.column])
        note = f"{note}, probability {probability:.3g}"
    return note


def _row_html(row, notes):
    return "".join(
        # A token with only the first bytes of a character has no text.
        _span(
            (token.text or "\ufffd").replace("\n", "\u21b5\n"),
            token.source,
            note,
        )
        for token, note in zip(row, notes)
    )


def _span(text, source, note=None):
    # A student may write HTML.
    title = "" if note is None else f' title="{html.escape(note)}"'
    style = _STYLES[source][0]
    return f'<span style="{style}"{title}>{html.escape(text)}</span>'


def _row_text(row, color):
    text = ""
    for source, run in itertools.groupby(row, key=lambda token: token.source):
        marks = (_COLORS if color else _MARKS).get(source, "{}")
        text += marks.format("".join(token.text for token in run))
    return text
