import importlib
import json
import numbers
import os
import pathlib

import keras

from keras_skd.chat._named import NAMED

_FILES = "chat_template.jinja", "tokenizer_config.json"


@keras.saving.register_keras_serializable("keras_skd")
class ChatTemplate:
    """Renders messages to text, in the format that a model was trained on.

    The template runs in Jinja's immutable sandbox, since it may come with a
    download. It cannot access Python or files, but can still be slow.

    Args:
        template: str. A name, `"chatml"`, `"gemma"`, `"llama3"`, `"phi"` or
            `"qwen"` (2 and 2.5, with its default system message; Qwen 3 is
            `"chatml"`), or a template in Jinja, as `transformers` has it.
        bos_token: str. The start token for the template. Defaults to `None`:
            the tokenizer's in a `Distiller`, and none elsewhere.
        eos_token: str. The end token, likewise.
        **variables: other variables of the template, such as
            `enable_thinking=False`.

    Raises:
        ImportError: if `jinja2` is not installed.
        ValueError: if `template` is neither a name nor Jinja.

    Example:

    ```python
    template = keras_skd.chat.ChatTemplate("chatml")
    print(
        template.render(
            [{"role": "user", "content": "Why?"}], add_generation_prompt=True
        )
    )
    # <|im_start|>user
    # Why?<|im_end|>
    # <|im_start|>assistant
    ```

    Reference:

    - [Chat templates in `transformers`](
      https://huggingface.co/docs/transformers/chat_templating)
    """

    def __init__(
        self,
        template: str,
        *,
        bos_token: str | None = None,
        eos_token: str | None = None,
        **variables,
    ):
        # At the first template, not at `import keras_skd`.
        try:
            sandbox = importlib.import_module("keras_skd.chat._sandbox")
        except ImportError as error:
            raise ImportError(
                "Chat templates need Jinja 3.1.6 or newer: "
                "`pip install 'jinja2>=3.1.6'`, or "
                '`pip install "keras-skd[chat]"`.'
            ) from error
        if not isinstance(template, str):
            raise TypeError(
                f"`template` must be one of {sorted(NAMED)} or a template in "
                f"Jinja. Received: {template!r} of type "
                f"{type(template).__name__}"
            )
        self.name = template if template in NAMED else None
        if self.name is None and "{" not in template:
            raise ValueError(
                f"`template` must be one of {sorted(NAMED)} or a template in "
                f"Jinja. Received: {template!r}"
            )
        self.source = NAMED.get(template, template)
        self.bos_token = bos_token
        self.eos_token = eos_token
        self.variables = variables
        self._template = sandbox.compile_template(self.source)

    @classmethod
    def from_preset(
        cls, folder: str | os.PathLike, **variables
    ) -> "ChatTemplate":
        """Reads the template in the folder of a tokenizer.

        KerasHub presets have no chat templates. This reads the template in a
        local folder in the format of `transformers`, from which KerasHub's
        `from_preset` loads the model.

        Args:
            folder: str or path. It has `chat_template.jinja`, or a
                `tokenizer_config.json` that contains the template.
            **variables: see the class.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file has no template.

        Example:

        ```python
        import json, pathlib

        # As `save_pretrained` of a tokenizer would.
        config = {"chat_template": "{{ messages[0].content }}"}
        pathlib.Path("tokenizer_config.json").write_text(json.dumps(config))

        template = keras_skd.chat.ChatTemplate.from_preset(".")
        ```
        """
        folder = pathlib.Path(folder)
        paths = [folder / name for name in _FILES]
        if not any(path.exists() for path in paths):
            raise FileNotFoundError(
                f"`folder` must have one of {list(_FILES)}, as the folder of a "
                f"tokenizer of `transformers` does. Received: {str(folder)!r}"
            )
        config = {}
        if paths[1].exists():
            config = json.loads(paths[1].read_text(encoding="utf-8"))
        source = config.get("chat_template")
        if isinstance(source, list):
            # Several, by name.
            named = {entry["name"]: entry["template"] for entry in source}
            source = named.get("default")
        if paths[0].exists():
            source = paths[0].read_text(encoding="utf-8")
        if not source:
            raise ValueError(
                "The tokenizer has no chat template. Pass the name of one: "
                f"{sorted(NAMED)}. Received: {str(folder)!r}"
            )
        tokens = {
            key: _content(config[key])
            for key in ("bos_token", "eos_token")
            if config.get(key)
        }
        return cls(source, **{**tokens, **variables})

    def get_config(self) -> dict:
        return {
            "template": self.name or self.source,
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
            **self.variables,
        }

    @classmethod
    def from_config(cls, config: dict) -> "ChatTemplate":
        return cls(**config)

    def render(
        self, messages: list[dict], add_generation_prompt: bool = False
    ) -> str:
        """Returns the text of a conversation.

        Args:
            messages: list of dicts of `"role"` and `"content"`, both strings.
                The template may read other keys.
            add_generation_prompt: bool. Whether to append the beginning of an
                assistant's turn. Defaults to `False`.

        Raises:
            TypeError: if `messages` is not a list of such dicts.
            ValueError: if the template fails on them.
        """
        messages = plain_messages(messages)
        self._check_content(messages)
        tokens = {"bos_token": self.bos_token, "eos_token": self.eos_token}
        try:
            return self._template.render(
                messages=messages,
                add_generation_prompt=add_generation_prompt,
                tools=None,
                documents=None,
                # A template would write `None` as a word.
                **{key: value for key, value in tokens.items() if value},
                **self.variables,
            )
        # A template can raise any error.
        except Exception as error:
            raise ValueError(
                "The chat template failed on the messages: "
                f"{type(error).__name__}: {error}. Received: {messages!r:.200}"
            ) from error

    def _check_content(self, messages):
        if self.name is None:
            return
        for message in messages:
            content = message.get("content")
            if not (content is None or isinstance(content, str)):
                raise TypeError(
                    f'The template "{self.name}" needs text: "content" must '
                    f"be a string. Received: {content!r:.60}"
                )

    def __repr__(self):
        return f"ChatTemplate({self.name or self.source!r:.60})"


def with_tokens(
    template: ChatTemplate, bos_token: str | None, eos_token: str | None
) -> ChatTemplate:
    """Returns a template with the special tokens of a tokenizer.

    Args:
        template: a `ChatTemplate`. Its own tokens take precedence.
        bos_token: str or `None`. The tokenizer's start token.
        eos_token: str or `None`. The tokenizer's end token.
    """
    return ChatTemplate(
        template.name or template.source,
        bos_token=template.bos_token or bos_token,
        eos_token=template.eos_token or eos_token,
        **template.variables,
    )


def plain_messages(messages) -> list:
    """Returns a copy of the messages of a chat, plain lists and dicts.

    Raises:
        TypeError: if they are not messages.
    """
    plain = _plain(messages)
    if not isinstance(plain, list):
        raise TypeError(
            "The messages of a chat must be a list of dicts. Received: "
            f"{messages!r:.60} of type {type(messages).__name__}"
        )
    for message in plain:
        if not isinstance(message, dict) or not isinstance(
            message.get("role"), str
        ):
            raise TypeError(
                'Messages must be a list of dicts such as {"role": "user", '
                f'"content": "Hello"}}. Received: {message!r:.60} of type '
                f"{type(message).__name__}"
            )
    return plain


def _content(token):
    """A token of `tokenizer_config.json`: a string, or a dict of it."""
    return token["content"] if isinstance(token, dict) else token


def _plain(value):
    """A copy made of plain types, which have no unsafe methods."""
    if value is None or type(value) in (str, bool, int, float):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):  # An array, or a number of NumPy.
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, numbers.Real):
        return float(value)
    raise TypeError(
        "Messages must be made of strings, numbers, lists and dicts. Received: "
        f"{value!r:.60} of type {type(value).__name__}"
    )
