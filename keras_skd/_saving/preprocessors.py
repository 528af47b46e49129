"""Configs of preprocessors, whose vocabularies are not in the config.

A `.keras` file holds the vocabulary beside the config, once for each tokenizer.
A clone is made from the config alone, and takes it from the original tokenizer.
"""

import uuid
import weakref

import keras

# The tokenizers whose configs were taken in this process, by a key.
_TOKENIZERS: weakref.WeakValueDictionary = weakref.WeakValueDictionary()


def serialize_preprocessors(preprocessors: dict) -> dict:
    """Serializes preprocessors, some of which may be the same, or `None`.

    Args:
        preprocessors: dict from names to preprocessors.

    Returns:
        dict from the names to configs, or to the name of the same
        preprocessor.
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
        # It is built later, when the tokenizer has its special tokens.
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
    """A copy with the same vocabulary, which can load a different one."""
    copied = object.__new__(type(tokenizer))
    vars(copied).update(vars(tokenizer))
    return copied
