"""Tokenizers of chat models, each twice: of `transformers`, and of KerasHub.

They are trained on a few sentences, and saved as the files that a download
has. KerasHub's have the same vocabulary.
"""

import json
import typing

import keras_hub
import tokenizers as tokenizers_library
import transformers
from keras_hub.src.tokenizers.byte_pair_tokenizer import (
    SPLIT_PATTERN_TOKENIZERS,
)
from tokenizers import decoders
from tokenizers import models
from tokenizers import pre_tokenizers
from tokenizers import trainers

from keras_skd.chat._named import NAMED
from tests.support import tokenizers

SENTENCES = [
    *tokenizers.SENTENCES,
    "user assistant system tool model You are a helpful cat.",
    '<think>\n\n</think>\n\n{"a": 12}',
]
FAMILIES = ("gemma", "llama", "llama3", "qwen")
# That of Llama 2 has no name of ours, and writes what is no token of it.
LLAMA = """\
{{ bos_token }}
{%- for message in messages %}
{% if message.role == 'assistant' %}
 {{ message.content }}{{ eos_token }}
{%- elif message.role == 'system' %}
<<SYS>> {{ message.content }}
{% else %}
[INST] {{ message.content }} [/INST]
{%- endif %}
{% endfor %}
"""


class Family(typing.NamedTuple):
    """A tokenizer and its twin.

    Args:
        theirs: tokenizer of `transformers`, which has a chat template.
        preprocessor: `keras_hub.models.CausalLMPreprocessor`.
        folder: path of the files of `theirs`.
    """

    theirs: typing.Any
    preprocessor: typing.Any
    folder: typing.Any


def family(name, folder, sequence_length=96):
    """The tokenizers of a family, with its files in a folder."""
    make = {
        "gemma": _gemma,
        "llama": _llama,
        "llama3": _llama3,
        "qwen": _qwen,
    }[name]
    return make(folder, template(name), sequence_length)


def template(name):
    """The chat template of a family, in Jinja."""
    return {**NAMED, "llama": LLAMA}[name]


def _llama3(folder, chat_template, sequence_length):
    special = [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
    ]
    vocabulary, merges, theirs = _byte_pairs(
        folder,
        special,
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        chat_template=chat_template,
    )
    tokenizer = keras_hub.tokenizers.Llama3Tokenizer(vocabulary, merges)
    preprocessor = keras_hub.models.Llama3CausalLMPreprocessor(
        tokenizer, sequence_length=sequence_length
    )
    return Family(theirs, preprocessor, folder)


def _qwen(folder, chat_template, sequence_length):
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    # Tokens of the model that are no special tokens.
    added = ["<think>", "</think>"]
    vocabulary, merges, theirs = _byte_pairs(
        folder,
        special,
        added,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        chat_template=chat_template,
    )
    # As KerasHub makes one from such files.
    tokenizer = keras_hub.tokenizers.Qwen3Tokenizer(
        vocabulary, merges, unsplittable_tokens=[*special, *added]
    )
    preprocessor = keras_hub.models.Qwen3CausalLMPreprocessor(
        tokenizer, sequence_length=sequence_length
    )
    return Family(theirs, preprocessor, folder)


def _gemma(folder, chat_template, sequence_length):
    proto = tokenizers.sentence_piece(
        SENTENCES,
        ["<pad>", "<eos>", "<bos>", "<unk>"],
        vocab_size=480,
        byte_fallback=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        user_defined_symbols=["<start_of_turn>", "<end_of_turn>"],
    )
    (folder / "tokenizer.model").write_bytes(proto)
    config = {
        "tokenizer_class": "GemmaTokenizer",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"],
        "chat_template": chat_template,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    theirs = transformers.GemmaTokenizer.from_pretrained(folder)
    preprocessor = keras_hub.models.GemmaCausalLMPreprocessor(
        keras_hub.tokenizers.GemmaTokenizer(proto),
        sequence_length=sequence_length,
    )
    return Family(theirs, preprocessor, folder)


def _llama(folder, chat_template, sequence_length):
    proto = tokenizers.sentence_piece(
        SENTENCES,
        ["<unk>", "<s>", "</s>"],
        vocab_size=480,
        byte_fallback=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
    )
    (folder / "tokenizer.model").write_bytes(proto)
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "legacy": True,
        "chat_template": chat_template,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    theirs = transformers.LlamaTokenizer.from_pretrained(folder)
    preprocessor = keras_hub.models.LlamaCausalLMPreprocessor(
        keras_hub.tokenizers.LlamaTokenizer(proto),
        sequence_length=sequence_length,
    )
    return Family(theirs, preprocessor, folder)


def _byte_pairs(folder, special, added=(), **kwargs):
    """Trains a byte-level tokenizer, with the words split as KerasHub does."""
    tokenizer = tokenizers_library.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(
                tokenizers_library.Regex(SPLIT_PATTERN_TOKENIZERS), "isolated"
            ),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.add_tokens(list(added))
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **kwargs
    ).save_pretrained(folder)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    saved = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = saved["model"]["vocab"]
    for token in saved["added_tokens"]:
        vocabulary[token["content"]] = token["id"]
    merges = [" ".join(merge) for merge in saved["model"]["merges"]]
    return vocabulary, merges, theirs
