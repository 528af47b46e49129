"""Encodes chats as prompts and responses."""

import contextlib
from typing import Any

from keras_skd._preprocessing.chat_renderer import ChatRenderer
from keras_skd.chat._chat_template import plain_messages

ASSISTANT_TURNS = ("last", "all")

# Tokens of a vocabulary, and the named template to suggest for them.
_SIGNS = {
    "<start_of_turn>": "gemma",
    "<|start_header_id|>": "llama3",
    "<|im_start|>": "chatml",
    "<|assistant|>": "phi",
}


class Chats:
    """Renders and encodes chats.

    A prompt is the conversation before the assistant's last turn, with its
    generation prompt; the response is that turn, up to and including its end
    token. With `"all"`, the prompt ends before the assistant's first turn, and
    the response is the rest of the conversation, of which only the assistant's
    turns are trained on.

    Special tokens in messages of users, tools or the system are encoded as
    text, so that they cannot end a turn. An assistant's message may contain
    special tokens, such as `<think>`.

    Args:
        tokenizer: a `keras_hub.tokenizers.Tokenizer`.
        template: a `keras_skd.chat.ChatTemplate`, its name or Jinja, or `None`.
        teacher_template: the teacher's, if it differs.
        assistant_turns: `"last"` or `"all"`, the turns that are trained on.

    Call arguments:
        chats: list of lists of messages.

    Returns:
        dict of lists with one list for each row: `"prompts"` and `"responses"`
        (token ids; the response is empty if a chat does not end with the
        assistant), `"trained"` (bools, whether each token of the response is
        trained on), and with a `teacher_template` `"teacher_prompts"` (token
        ids).
    """

    def __init__(
        self,
        tokenizer,
        template=None,
        teacher_template=None,
        assistant_turns="last",
    ):
        if assistant_turns not in ASSISTANT_TURNS:
            raise ValueError(
                f"`assistant_turns` must be one of {list(ASSISTANT_TURNS)}. "
                f"Received: {assistant_turns!r}"
            )
        if tokenizer is None and (template or teacher_template):
            raise ValueError(
                "A chat template needs a `preprocessor` to encode its text. "
                f"Received: chat_template={template!r:.60}, and "
                "models without a preprocessor"
            )
        self.assistant_turns = assistant_turns
        self._tokenizer = tokenizer
        # `None` without a template, which a call refuses.
        self._student: Any = None
        self._teacher: Any = None
        if template is not None:
            self._student = ChatRenderer(tokenizer, template, "chat_template")
        if teacher_template is not None:
            if template is None:
                raise ValueError(
                    "`teacher_chat_template` needs a `chat_template`, which "
                    "the student reads. Received: chat_template=None"
                )
            if assistant_turns == "all":
                raise ValueError(
                    '`assistant_turns="all"` needs one template for both '
                    "models, since the turns would be at different positions. "
                    "Received: teacher_chat_template="
                    f"{teacher_template!r:.60}"
                )
            self._teacher = ChatRenderer(
                tokenizer, teacher_template, "teacher_chat_template"
            )

    @property
    def end_of_turn_ids(self):
        """The ids of the tokens that end an assistant's turn."""
        renderers = [r for r in (self._student, self._teacher) if r is not None]
        tokens = [r.end_of_turn for r in renderers if r.end_of_turn is not None]
        return tuple(
            int(self._tokenizer.token_to_id(token)) for token in tokens
        )

    def __call__(self, chats):
        if self._student is None:
            raise ValueError(
                '"messages" need a template. Pass `chat_template` to the '
                f"`Distiller`: {self._suggestion()}. Received: "
                "chat_template=None"
            )
        turns, of_teacher = [], []
        for row, chat in enumerate(chats):
            with _naming_row(row):
                chat = plain_messages(chat)
                turns.append(self._turns(chat))
                if self._teacher is not None:
                    end = len(chat) - _ends_with_assistant(chat)
                    of_teacher.append([_prompt(self._teacher, chat[:end])])
        rows = self._encode(turns)
        if self._teacher is not None:
            rows["teacher_prompts"] = [
                prompt for (prompt,) in self._teacher.encode(of_teacher)
            ]
        return rows

    def _turns(self, chat):
        """The prompt, then the assistant's turns and the text between them."""
        if not _ends_with_assistant(chat):
            return [_prompt(self._student, chat)]
        ends = [i for i, m in enumerate(chat) if m["role"] == "assistant"]
        if self.assistant_turns == "last":
            ends = ends[-1:]
        return self._student.turns(chat, ends)

    def _encode(self, turns):
        rows: dict = {"prompts": [], "responses": [], "trained": []}
        for prompt, *rest in self._student.encode(turns):
            rows["prompts"].append(prompt)
            rows["responses"].append([i for ids in rest for i in ids])
            # Turns of the assistant alternate with other text.
            rows["trained"].append(
                [n % 2 == 0 for n, ids in enumerate(rest) for _ in ids]
            )
        return rows

    def _suggestion(self):
        vocabulary = {*self._tokenizer.get_vocabulary()}
        fitting = [n for token, n in _SIGNS.items() if token in vocabulary]
        if not fitting:
            return 'a name such as "chatml", or a template in Jinja'
        return f"this vocabulary has the tokens of {fitting[0]!r}"


def _prompt(renderer, chat):
    """The text of a chat; empty if it has no messages."""
    return renderer.prompt(chat) if chat else ""


def _ends_with_assistant(chat):
    return bool(chat) and chat[-1]["role"] == "assistant"


@contextlib.contextmanager
def _naming_row(row):
    """Adds the row of a chat to errors."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise type(error)(
            f'In "messages", row {row}: {error}'
        ) from error.__cause__
