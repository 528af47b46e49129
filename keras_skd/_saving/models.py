"""Configs of causal LMs that leave nothing out, as KerasHub's own do.

A `CausalLM` says how its backbone is made. What the user did to it afterwards
is not in there: LoRA, and what is frozen. And a tokenizer has its vocabulary
from a file beside the config, which a clone does not have.
"""

import inspect
import tempfile
import uuid
import weakref

import keras

from keras_skd._without_lora import adapted_layers

# The preprocessors whose configs were taken in this process, for clones.
_PREPROCESSORS: weakref.WeakValueDictionary = weakref.WeakValueDictionary()
_PLAIN = bool, int, float, str


def serialize_model(model) -> dict:
    """The config of a `keras_hub.models.CausalLM` as it is now."""
    config = keras.saving.serialize_keras_object(model)
    # KerasHub compiles a model when it is made, and the distiller trains it.
    config.pop("compile_config", None)
    _add_left_out(config["config"]["backbone"]["config"], model.backbone)
    layers = model.backbone._flatten_layers()
    adapted = adapted_layers(model.backbone)
    return {
        "model": config,
        "preprocessor_key": preprocessor_key(model.preprocessor),
        "adapters": [
            {"layer": i, "rank": layer.lora_rank, "alpha": layer.lora_alpha}
            for i, layer in enumerate(layers)
            if layer in adapted
        ],
        "frozen_layers": _indices(not x.trainable for x in layers),
        "frozen_variables": _indices(
            not x.trainable for x in model.backbone.variables
        ),
    }


def deserialize_model(config: dict):
    """The `keras_hub.models.CausalLM` of a config, with new weights."""
    model = keras.saving.deserialize_keras_object(config["model"])
    fill_tokenizer(model.preprocessor, config["preprocessor_key"])
    backbone = model.backbone
    layers = backbone._flatten_layers()
    _freeze(layers, config["frozen_layers"])
    for adapter in config["adapters"]:
        layers[adapter["layer"]].enable_lora(
            adapter["rank"], lora_alpha=adapter["alpha"]
        )
    if config["adapters"]:
        # What `backbone.save_lora_weights` reads.
        weighted = [x for x in layers if x is not backbone and x.weights]
        adapted = adapted_layers(backbone)
        backbone._lora_rank = config["adapters"][0]["rank"]
        backbone._lora_enabled_layers = _indices(x in adapted for x in weighted)
    _freeze(backbone.variables, config["frozen_variables"])
    return model


def _indices(conditions):
    return [i for i, condition in enumerate(conditions) if condition]


def _freeze(objects, frozen):
    for i, x in enumerate(objects):
        # A layer hands what it is told on to all of its own.
        if x.trainable == (i in frozen):
            x.trainable = i not in frozen


def _add_left_out(config, backbone):
    """Adds arguments that KerasHub forgets, such as `tie_word_embeddings`."""
    for name in inspect.signature(type(backbone)).parameters:
        value = getattr(backbone, name, None)
        if name not in config and isinstance(value, _PLAIN):
            config[name] = value


def preprocessor_key(preprocessor) -> str | None:
    """A key by which a clone finds the preprocessor of its original."""
    if preprocessor is None:
        return None
    key = uuid.uuid4().hex
    _PREPROCESSORS[key] = preprocessor
    return key


def fill_tokenizer(preprocessor, key):
    """Gives a clone the vocabulary of its original.

    From a file, it comes later, and from the file.
    """
    original = _PREPROCESSORS.get(key)
    if original is None or has_vocabulary(preprocessor.tokenizer):
        return
    with tempfile.TemporaryDirectory() as folder:
        original.tokenizer.save_assets(folder)
        preprocessor.tokenizer.load_assets(folder)


def has_vocabulary(tokenizer) -> bool:
    """Whether a tokenizer can be used: until it is loaded, it cannot."""
    try:
        tokenizer.vocabulary_size()
    except (AttributeError, TypeError, ValueError):
        return False
    return True
