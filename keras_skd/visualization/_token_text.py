"""The text of each token of a rollout."""

import unicodedata
from typing import NamedTuple

import numpy as np

from keras_skd._source import Source

# A character may consist of several tokens, and a space may depend on the token
# before. So a token is detokenized along with a few tokens before it.
_CONTEXT = 4

# The text of an incomplete character.
_INCOMPLETE = "\ufffd"

# Control characters that reorder the text after them.
_BIDIRECTIONAL = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}


def token_texts(tokenizer, rows: list) -> list:
    """Returns the text of each token. Joined, they are the text of the row.

    Of the tokens of one character, the last has the character as its text, and
    the others `""`. A token without text, such as an end token, has its name.

    Args:
        tokenizer: a `keras_hub.tokenizers.Tokenizer`, or `None` for the ids.
        rows: list of lists of ints.

    Returns:
        List of lists of strings without control characters.
    """
    if tokenizer is None:
        return [[f" {token_id}" for token_id in row] for row in rows]
    windows = []
    for row in rows:
        for i in range(len(row)):
            start = max(0, i - _CONTEXT)
            windows += [row[start:i], row[start : i + 1]]
    texts = iter(_detokenize(tokenizer, windows))
    pairs = [[(next(texts), next(texts)) for _ in row] for row in rows]
    return [_pieces(tokenizer, row, pair) for row, pair in zip(rows, pairs)]


def _pieces(tokenizer, row, pairs):
    pieces: list[str] = []
    names: dict[int, str] = {}
    for i, (before, after) in enumerate(pairs):
        common = _common_length(before, after)
        _cut(pieces, len(before) - common)
        pieces.append(after[common:])
        if before == after and not before.endswith(_INCOMPLETE):
            names[i] = _name(tokenizer, row[i])
    return [printable(names.get(i, x)) for i, x in enumerate(pieces)]


def _cut(pieces, count):
    """Removes characters from the end, which a later token replaces."""
    i = len(pieces)
    while count and i:
        i -= 1
        kept = max(0, len(pieces[i]) - count)
        count -= len(pieces[i]) - kept
        pieces[i] = pieces[i][:kept]


def _common_length(first, second):
    """The length of the common prefix."""
    pairs = enumerate(zip(first, second))
    shorter = min(len(first), len(second))
    return next((i for i, (a, b) in pairs if a != b), shorter)


def _name(tokenizer, token_id):
    name = tokenizer.id_to_token(int(token_id))
    return name if isinstance(name, str) else str(name)


def _detokenize(tokenizer, rows):
    """The texts of rows of ids, of which some may be empty."""
    full = [[int(i) for i in row] for row in rows if len(row)]
    texts = iter(tokenizer.detokenize(full) if full else ())
    return [_to_str(next(texts)) if len(row) else "" for row in rows]


def _to_str(text):
    if hasattr(text, "numpy"):
        text = text.numpy()
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else text


def printable(text: str) -> str:
    """The text with control characters escaped, such as `\\x1b`.

    A model may write any token, and a terminal would obey them.
    """
    return "".join(
        c if c in "\n\t" or not _is_control(c) else repr(c)[1:-1] for c in text
    )


def _is_control(character):
    is_bidirectional = ord(character) in _BIDIRECTIONAL
    return is_bidirectional or unicodedata.category(character) == "Cc"


class Token(NamedTuple):
    """A token of a rollout.

    Attributes:
        column: int. Its position in the row.
        token_id: int.
        text: str. Its part of the text of the row.
        source: `keras_skd.Source`.
    """

    column: int
    token_id: int
    text: str
    source: Source


def row_tokens(rollout: dict, tokenizer, rows) -> list:
    """The tokens of rows of a rollout, without the padding.

    Args:
        rollout: dict of arrays, as `Distiller.generate_rollout` returns it.
        tokenizer: as for `token_texts`.
        rows: list of ints.

    Returns:
        A list with a list of `Token`s for each row.
    """
    token_ids = np.asarray(rollout["token_ids"])
    sources = np.asarray(rollout["sources"])
    columns = [np.flatnonzero(sources[row] != Source.PADDING) for row in rows]
    ids = [token_ids[row, kept].tolist() for row, kept in zip(rows, columns)]
    return [
        [
            Token(column, token_id, text, Source(int(sources[row, column])))
            for column, token_id, text in zip(kept.tolist(), ids_of_row, texts)
        ]
        for row, kept, ids_of_row, texts in zip(
            rows, columns, ids, token_texts(tokenizer, ids)
        )
    ]


def check_rollout(rollout) -> None:
    """Checks that a value is a dict of a rollout's arrays.

    Raises:
        TypeError: if it is not a dict.
        ValueError: if it lacks tokens or their sources.
    """
    if not isinstance(rollout, dict):
        raise TypeError(
            "`rollout` must be a dict, as `distiller.generate_rollout(x)` "
            f"returns it. Received: {rollout!r:.60} of type "
            f"{type(rollout).__name__}"
        )
    missing = {"token_ids", "sources"} - rollout.keys()
    if missing:
        raise ValueError(
            "`rollout` must have 'token_ids' and 'sources', as "
            "`distiller.generate_rollout(x)` returns them. Received the keys: "
            f"{sorted(rollout, key=str)}"
        )


def find_tokenizer(tokenizer):
    """Returns the tokenizer of a model or preprocessor, or `None`.

    Args:
        tokenizer: a tokenizer, a preprocessor, a `Distiller`, a causal LM, or
            `None`.
    """
    if hasattr(tokenizer, "preprocessor"):
        tokenizer = tokenizer.preprocessor
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    if tokenizer is None or hasattr(tokenizer, "detokenize"):
        return tokenizer
    raise TypeError(
        "`tokenizer` must be a `keras_hub.tokenizers.Tokenizer`, something "
        "that has one (a preprocessor, a causal LM, a `Distiller`), or `None`. "
        f"Received: {tokenizer!r:.60} of type {type(tokenizer).__name__}"
    )
