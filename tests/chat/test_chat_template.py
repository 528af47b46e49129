"""What the named templates write, and templates from files."""

import json

import numpy as np
import pytest

import keras_skd
from keras_skd.chat import ChatTemplate
from keras_skd.chat._chat_template import with_tokens

SYSTEM = {"role": "system", "content": " Be brief. "}
QUESTION = {"role": "user", "content": " Why? "}
ANSWER = {"role": "assistant", "content": " Because. "}
MORE = {"role": "user", "content": "And\nthen?"}
CHAT = [QUESTION, ANSWER, MORE]


def chatml(messages, generate=False):
    turns = [
        f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages
    ]
    return "".join(turns) + "<|im_start|>assistant\n" * generate


def qwen(messages, generate=False):
    if messages[0]["role"] != "system":
        content = (
            "You are Qwen, created by Alibaba Cloud. You are a helpful "
            "assistant."
        )
        messages = [{"role": "system", "content": content}, *messages]
    return chatml(messages, generate)


def llama3(messages, generate=False):
    def header(role):
        return f"<|start_header_id|>{role}<|end_header_id|>\n\n"

    text = "<|begin_of_text|>"
    for m in messages:
        text += header(m["role"]) + m["content"].strip() + "<|eot_id|>"
    return text + header("assistant") * generate


def gemma(messages, generate=False):
    text, preface = "<bos>", ""
    for m in messages:
        content = m["content"].strip()
        if m["role"] == "system":
            preface = content + "\n\n"
            continue
        role = {"assistant": "model"}.get(m["role"], m["role"])
        text += f"<start_of_turn>{role}\n{preface}{content}<end_of_turn>\n"
        preface = ""
    return text + "<start_of_turn>model\n" * generate


def phi(messages, generate=False):
    turns = [f"<|{m['role']}|>{m['content']}<|end|>" for m in messages]
    return "".join(turns) + "<|assistant|>" * generate


NAMED = {f.__name__: f for f in (chatml, gemma, llama3, phi, qwen)}
TOKENS = {
    "gemma": dict(bos_token="<bos>", eos_token="<eos>"),
    "llama3": dict(bos_token="<|begin_of_text|>", eos_token="<|eot_id|>"),
}


@pytest.mark.parametrize("generate", [False, True])
@pytest.mark.parametrize("system", [False, True])
@pytest.mark.parametrize("name", NAMED)
def test_named_templates(name, system, generate):
    template = ChatTemplate(name, **TOKENS.get(name, {}))
    for length in (1, 2, 3):
        messages = [SYSTEM] * system + CHAT[:length]
        text = template.render(messages, add_generation_prompt=generate)
        assert text == NAMED[name](messages, generate)


@pytest.mark.parametrize("name", NAMED)
def test_a_message_without_content(name):
    # As of one that calls a tool.
    messages = [QUESTION, {"role": "assistant", "content": None}]
    empty = [QUESTION, {"role": "assistant", "content": ""}]
    template = ChatTemplate(name)
    assert template.render(messages) == template.render(empty)


def test_variables_and_messages_of_arrays():
    source = "{{ messages[0].content }} {{ wanted }} {{ eos_token }}."
    template = ChatTemplate(source, wanted=False)
    messages = np.array([{"role": "user", "content": np.str_("Hello")}])
    assert template.render(messages) == "Hello False ."
    template = with_tokens(template, "<s>", "</s>")
    assert template.render(messages) == "Hello False </s>."


def test_from_preset(tmp_path):
    config = tmp_path / "tokenizer_config.json"
    with pytest.raises(FileNotFoundError, match="chat_template.jinja"):
        ChatTemplate.from_preset(tmp_path)

    config.write_text(json.dumps({"bos_token": "<s>"}))
    with pytest.raises(ValueError, match="no chat template"):
        ChatTemplate.from_preset(tmp_path)

    source = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"
    of_file = {
        "bos_token": {"content": "<s>", "lstrip": False},
        "eos_token": "</s>",
        "chat_template": source,
    }
    config.write_text(json.dumps(of_file))
    template = ChatTemplate.from_preset(tmp_path)
    assert template.render([QUESTION]) == "<s> Why? </s>"

    of_file["chat_template"] = [
        {"name": "rag", "template": "{{ 1 }}"},
        {"name": "default", "template": source},
    ]
    config.write_text(json.dumps(of_file))
    template = ChatTemplate.from_preset(str(tmp_path))
    assert template.render([QUESTION]) == "<s> Why? </s>"

    # What newer versions of `transformers` write comes first.
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}{{ a }}")
    template = ChatTemplate.from_preset(tmp_path, a=1)
    assert template.render([QUESTION]) == "<s>1"


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: ChatTemplate("lama3"), ValueError, ["'lama3'", "llama3"]),
        (lambda: ChatTemplate(3), TypeError, ["`template`", "3", "int"]),
        (lambda: ChatTemplate("{% if %}"), ValueError, ["Jinja", "line 1"]),
        (
            lambda: ChatTemplate("phi").render("Hello"),
            TypeError,
            ["list of dicts", "'Hello'", "str"],
        ),
        (
            lambda: ChatTemplate("phi").render([{"content": "Hello"}]),
            TypeError,
            ['"role"', "{'content': 'Hello'}"],
        ),
        (
            lambda: ChatTemplate("phi").render(
                [{"role": "user", "content": [{"type": "text"}]}]
            ),
            TypeError,
            ['"phi"', "must be a string", "[{'type': 'text'}]"],
        ),
        (
            lambda: ChatTemplate("{{ messages[0].a.b }}").render([QUESTION]),
            ValueError,
            ["UndefinedError", "Why?"],
        ),
    ],
    ids=lambda x: "",
)
def test_bad_input(call, error, words):
    with pytest.raises(error) as info:
        call()
    assert info.type is error
    for word in words:
        assert word in str(info.value), str(info.value)


def test_repr():
    template = keras_skd.chat.ChatTemplate("gemma")
    assert repr(template) == "ChatTemplate('gemma')"
