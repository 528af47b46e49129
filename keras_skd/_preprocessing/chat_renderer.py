"""Renders chats with a template, splits them into turns and encodes them."""

import itertools

from keras_skd._preprocessing.special_tokens import SpecialTokens
from keras_skd.chat import ChatTemplate
from keras_skd.chat._chat_template import with_tokens

# A sample chat, which shows how a template ends a turn.
_QUESTION = {"role": "user", "content": "QUESTION"}
_ANSWER = {"role": "assistant", "content": "ANSWER"}


class ChatRenderer:
    """A chat template for one tokenizer.

    Args:
        tokenizer: a `keras_hub.tokenizers.Tokenizer`.
        template: a `keras_skd.chat.ChatTemplate`, its name or Jinja.
        argument: str. The argument that it came from, for the errors.

    Attributes:
        end_of_turn: str or `None`, the token that ends an assistant's turn.
    """

    def __init__(self, tokenizer, template, argument):
        if not isinstance(template, ChatTemplate):
            try:
                template = ChatTemplate(template)
            except (TypeError, ValueError) as error:
                raise type(error)(
                    f"In `{argument}`: {error}"
                ) from error.__cause__
        self._template = with_tokens(
            template,
            getattr(tokenizer, "start_token", None),
            getattr(tokenizer, "end_token", None),
        )
        asked = self._template.render([_QUESTION], add_generation_prompt=True)
        answered = self._template.render([_QUESTION, _ANSWER])
        self._tokens = SpecialTokens(
            tokenizer, [self._template.source, asked, answered]
        )
        missing = self._tokens.missing(asked + answered)
        if missing:
            raise ValueError(
                f"`{argument}` writes {missing}, which are not in the "
                f"vocabulary of {type(tokenizer).__name__}: it belongs to a "
                "different family of models. Pass the template that the model "
                f"was trained with. Received: {self._template!r}"
            )
        _, answer, rest = answered.rpartition(_ANSWER["content"])
        if not answer:
            raise ValueError(
                f"`{argument}` leaves out the assistant's message. Received: "
                f"{self._template!r}"
            )
        self.end_of_turn: str | None = next(iter(self._tokens.find(rest)), None)

    def prompt(self, chat):
        """Renders a chat with the generation prompt of the assistant."""
        return self._template.render(
            self._as_text(chat), add_generation_prompt=True
        )

    def turns(self, chat, ends):
        """Renders a chat, and splits it around turns of the assistant.

        Args:
            chat: list of messages.
            ends: list of ints, the indices of these turns in the chat.

        Returns:
            List of strings: the prompt, a turn, the text up to the next turn,
            that turn, and so on. The last is a turn.
        """
        chat = self._as_text(chat)
        text = self._template.render(chat[: ends[-1] + 1])
        turns, start = [], 0
        for end in ends:
            prompt = self._template.render(
                chat[:end], add_generation_prompt=True
            )
            whole = text
            if end != ends[-1]:
                whole = self._template.render(chat[: end + 1])
            turn = whole[len(prompt) :]
            turn = turn[: self._length(turn)]
            if not text.startswith(prompt + turn) or len(prompt) < start:
                raise ValueError(
                    "The template renders the conversation before a turn of "
                    "the assistant differently once the turn follows (some "
                    "drop earlier reasoning), so that it cannot be split "
                    'there. Train on the last turn (`assistant_turns="last"`), '
                    "or pass a template that only appends. Received: "
                    f"{prompt[-60:]!r} without the turn, and "
                    f"{text[len(prompt) - 60 :][:60]!r} with it"
                )
            turns += [text[start : len(prompt)], turn]
            start = len(prompt) + len(turn)
        return turns

    def encode(self, turns):
        """Token ids of a prompt and of turns, as `turns` returns them.

        Args:
            turns: list of lists of str.

        Returns:
            List of lists of lists of int.
        """
        texts = [text for row in turns for text in row]
        continues = [
            i > 0 and not self._tokens.ends_with_token(row[i - 1])
            for row in turns
            for i in range(len(row))
        ]
        # In one call, since calling a tokenizer is slow.
        encoded = iter(self._tokens.encode(texts, continues))
        return [list(itertools.islice(encoded, len(row))) for row in turns]

    def _length(self, turn):
        """The length of the turn, up to and including its end token."""
        tokens = self._tokens.find(turn)
        if not tokens:
            return len(turn)
        ends = [token for token in tokens if token == self.end_of_turn]
        token = [*tokens, *ends][-1]
        return turn.rindex(token) + len(token)

    def _as_text(self, chat):
        """The chat, with special tokens of users and tools marked as text."""
        return [
            message
            if message["role"] == "assistant"
            else self._without_tokens(message)
            for message in chat
        ]

    def _without_tokens(self, value):
        if isinstance(value, str):
            return self._tokens.as_text(value)
        if isinstance(value, list):
            return [self._without_tokens(item) for item in value]
        if isinstance(value, dict):
            return {
                key: self._without_tokens(item) for key, item in value.items()
            }
        return value
