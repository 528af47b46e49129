"""Configs of preprocessors, which have their vocabularies from files.

A `.keras` file has the vocabulary beside the config, once for each tokenizer.
A clone, which is made of the config alone, takes it from its original.
"""

import uuid
import weakref

import keras

# The tokenizers whose configs were taken in this process, by a key.
_TOKENIZERS: weakref.WeakValueDictionary = weakref.WeakValueDictionary()


def serialize_preprocessors(preprocessors: dict) -> dict:
    """The configs of preprocessors some of which are the same, or `None`.

    Args:
        preprocessors: dict from names to preprocessors.

    Returns:
        dict from the names to configs, or to the name of an earlier one.
    """
    configs: dict = {}
    tokenizers = {
        name: getattr(preprocessor, "tokenizer", None)
        for name, preprocessor in preprocessors.items()
    }
    for name, preprocessor in preprocessors.items():
        configs[name] = None
        if preprocessor is None:
            continue
        same = _first(preprocessors, preprocessor)
        if same != name:
            configs[name] = same
            continue
        tokenizer = tokenizers[name]
        config = keras.saving.serialize_keras_object(preprocessor)
        # It is built when the tokenizer knows its special tokens.
        config.pop("build_config", None)
        key = uuid.uuid4().hex
        _TOKENIZERS[key] = tokenizer
        configs[name] = {
            "preprocessor": config,
            "tokenizer_of": _first(tokenizers, tokenizer),
            "tokenizer_key": key,
        }
    return configs


def deserialize_preprocessors(configs: dict) -> dict:
    """The preprocessors that configs describe, by name."""
    preprocessors: dict = {}
    for name, config in configs.items():
        if config is None or isinstance(config, str):
            preprocessors[name] = preprocessors.get(config)
            continue
        preprocessor = keras.saving.deserialize_keras_object(
            config["preprocessor"]
        )
        original = _TOKENIZERS.get(config["tokenizer_key"])
        if config["tokenizer_of"] != name:
            other = preprocessors[config["tokenizer_of"]]
            preprocessor.tokenizer = other.tokenizer
        elif original is not None:
            preprocessor.tokenizer = _copy(original)
        preprocessors[name] = preprocessor
    return preprocessors


def _first(objects, wanted):
    return next(name for name, x in objects.items() if x is wanted)


def _copy(tokenizer):
    """A tokenizer with the same vocabulary, which loads one of its own."""
    copied = object.__new__(type(tokenizer))
    vars(copied).update(vars(tokenizer))
    return copied
