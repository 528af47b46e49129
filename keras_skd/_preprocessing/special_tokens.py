"""The special tokens in a text that a chat template has rendered."""

import re

# Of no text: Unicode sets it aside for the inside of programs.
_BREAK = "\ufdd0"

# `<|im_end|>`, `<start_of_turn>`, `<s>`, `[INST]`.
_LOOKS_SPECIAL = re.compile(r"<[^<>\s]+>|\[/?[A-Z_]+\]")

# What is nothing else. A template may have other words in angle brackets.
_IS_SPECIAL = re.compile(r"<\|[^<>|\s]+\|>|<(?:start|end)_of_turn>")

_FIRST_WORD = re.compile(r"\W*[^\W_]*")


class SpecialTokens:
    """Encodes text with special tokens in it, each as its single id.

    KerasHub's tokenizers know some special tokens of their model and split
    others into pieces of text. Here the text is split at them first, as
    `transformers` does.

    Args:
        tokenizer: a `keras_hub.tokenizers.Tokenizer`.
        texts: list of str, in which the special tokens are, beside those that
            the tokenizer names itself.
    """

    def __init__(self, tokenizer, texts):
        self.tokenizer = tokenizer
        found = {token for t in texts for token in _LOOKS_SPECIAL.findall(t)}
        found |= {*tokenizer.special_tokens}
        found |= {*(getattr(tokenizer, "unsplittable_tokens", None) or ())}
        self._vocabulary = {*tokenizer.get_vocabulary()}
        # The longest first, of those that begin alike.
        tokens = sorted(found & self._vocabulary, key=len, reverse=True)
        self._pattern = re.compile(
            f"({'|'.join(map(re.escape, tokens)) or '(?!)'})"
        )

    def missing(self, text):
        """The special tokens of a text that the vocabulary does not have."""
        found = dict.fromkeys(_IS_SPECIAL.findall(text))
        return [token for token in found if token not in self._vocabulary]

    def find(self, text):
        """The special tokens of a text, in turn."""
        return self._pattern.findall(text)

    def as_text(self, text):
        """The text, marked so that no special token in it is one.

        A token is broken where its first word ends: tokenizers split there
        anyway.
        """

        def break_up(match):
            token = match[0]
            end = len(_FIRST_WORD.findall(token)[0])
            return f"{_BREAK}{token[:end]}{_BREAK}{token[end:]}{_BREAK}"

        return self._pattern.sub(break_up, text.replace(_BREAK, ""))

    def encode(self, texts):
        """Token ids of each text, lists of int.

        Args:
            texts: list of str, with what `as_text` marked.
        """
        rows = [self._split(text) for text in texts]
        parts = list(
            dict.fromkeys(
                part for row in rows for part, is_token in row if not is_token
            )
        )
        ids = {}
        if parts:
            encoded = self.tokenizer(parts)
            if hasattr(encoded, "to_list"):
                encoded = encoded.to_list()
            ids = {
                part: [int(i) for i in row] for part, row in zip(parts, encoded)
            }
        token_to_id = self.tokenizer.token_to_id
        return [
            [
                i
                for part, is_token in row
                for i in ([int(token_to_id(part))] if is_token else ids[part])
            ]
            for row in rows
        ]

    def _split(self, text):
        """Pairs of a part and whether it is a special token."""
        pieces = self._pattern.split(text)
        return [
            (part, i % 2 == 1)
            for i, piece in enumerate(pieces)
            for part in piece.split(_BREAK)
            if part
        ]
