"""Encodes text that contains special tokens."""

import re

# A character that no text has: Unicode reserves it for programs.
_BREAK = "\ufdd0"

# `<|im_end|>`, `<start_of_turn>`, `<s>`, `[INST]`.
_LOOKS_SPECIAL = re.compile(r"<[^<>\s]+>|\[/?[A-Z_]+\]")

# These are certainly special tokens. Other words in angle brackets may be text.
_IS_SPECIAL = re.compile(r"<\|[^<>|\s]+\|>|<(?:start|end)_of_turn>")

# A text to encode other text after.
_ANCHOR = "\n"

_FIRST_WORD = re.compile(r"\W*[^\W_]*")


class SpecialTokens:
    """Encodes text with special tokens in it, each as its single id.

    KerasHub's tokenizers know some special tokens of their model and split
    others into pieces of text. Here the text is split at them first, as
    `transformers` does.

    Args:
        tokenizer: a `keras_hub.tokenizers.Tokenizer`.
        texts: list of strings, in which to find special tokens besides those
            that the tokenizer names.
    """

    def __init__(self, tokenizer, texts):
        self.tokenizer = tokenizer
        found = {token for t in texts for token in _LOOKS_SPECIAL.findall(t)}
        found |= {*tokenizer.special_tokens}
        found |= {*(getattr(tokenizer, "unsplittable_tokens", None) or ())}
        self._vocabulary = {*tokenizer.get_vocabulary()}
        # The longest first, since one may begin with another.
        tokens = sorted(found & self._vocabulary, key=len, reverse=True)
        self._pattern = re.compile(
            f"({'|'.join(map(re.escape, tokens)) or '(?!)'})"
        )
        # SentencePiece may put a space in front of each text.
        anchor, word, both = self._tokenize([_ANCHOR, "a", _ANCHOR + "a"])
        goes_on = both[: len(anchor)] == anchor and both[len(anchor) :] != word
        self._anchor = anchor if goes_on else []

    def missing(self, text):
        """The special tokens of a text that are not in the vocabulary."""
        found = dict.fromkeys(_IS_SPECIAL.findall(text))
        return [token for token in found if token not in self._vocabulary]

    def find(self, text):
        """The special tokens of a text, in order."""
        return self._pattern.findall(text)

    def as_text(self, text):
        """Marks the text, so that special tokens in it are encoded as text.

        A token is split where its first word ends, as tokenizers do anyway.
        """

        def break_up(match):
            token = match[0]
            end = len(_FIRST_WORD.findall(token)[0])
            return f"{_BREAK}{token[:end]}{_BREAK}{token[end:]}{_BREAK}"

        return self._pattern.sub(break_up, text.replace(_BREAK, ""))

    def ends_with_token(self, text):
        """Whether a special token ends a text."""
        return self._pattern.split(text)[-1] == ""

    def encode(self, texts, continues=None):
        """Token ids of each text, lists of int.

        Args:
            texts: list of str, with what `as_text` marked.
            continues: list of bool, whether each text goes on in the middle of
                another. Defaults to `None`, none does.
        """
        if continues is None:
            continues = [False] * len(texts)
        rows = [self._split(*pair) for pair in zip(texts, continues)]
        parts = {
            part: None for row in rows for part in row if part[1] != "token"
        }
        ids = dict(zip(parts, self._encode_parts(list(parts))))
        for row in rows:
            for text, kind in row:
                if kind == "token":
                    token_id = int(self.tokenizer.token_to_id(text))
                    ids[text, kind] = [token_id]
        return [[i for part in row for i in ids[part]] for row in rows]

    def _split(self, text, continues):
        """Pairs of a part and what it is: a token, a start, or a middle."""
        parts = []
        for i, piece in enumerate(self._pattern.split(text)):
            if i % 2:
                parts.append((piece, "token"))
                continue
            for text in filter(None, piece.split(_BREAK)):
                is_middle = parts[-1][1] != "token" if parts else continues
                parts.append((text, "middle" if is_middle else "start"))
        return parts

    def _encode_parts(self, parts):
        """The ids of parts without special tokens."""
        num = len(self._anchor)
        texts = [
            _ANCHOR + text if kind == "middle" and num else text
            for text, kind in parts
        ]
        return [
            row[num:] if kind == "middle" and row[:num] == self._anchor else row
            for row, (_, kind) in zip(self._tokenize(texts), parts)
        ]

    def _tokenize(self, texts):
        if not texts:
            return []
        rows = self.tokenizer(texts)
        rows = rows.to_list() if hasattr(rows, "to_list") else rows
        return [[int(i) for i in row] for row in rows]
