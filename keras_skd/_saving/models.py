"""Complete configs of causal LMs.

The config of a KerasHub `CausalLM` describes its backbone, but not what was
done to it afterwards: LoRA, and frozen layers.
"""

import inspect

import keras

from keras_skd._without_lora import adapted_layers

_PLAIN = bool, int, float, str


def serialize_model(model) -> dict:
    """The config of a `keras_hub.models.CausalLM` without its preprocessor."""
    config = keras.saving.serialize_keras_object(model)
    # KerasHub compiles a model when it is made, and the distiller trains it.
    config.pop("compile_config", None)
    config["config"]["preprocessor"] = None
    _add_left_out(config["config"]["backbone"]["config"], model.backbone)
    layers = model.backbone._flatten_layers()
    adapted = adapted_layers(model.backbone)
    return {
        "model": config,
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


def deserialize_model(config: dict, preprocessor=None):
    """The `keras_hub.models.CausalLM` of a config, with new weights."""
    model = keras.saving.deserialize_keras_object(config["model"])
    model.preprocessor = preprocessor
    backbone = model.backbone
    layers = backbone._flatten_layers()
    _freeze(layers, config["frozen_layers"])
    for adapter in config["adapters"]:
        layers[adapter["layer"]].enable_lora(
            adapter["rank"], lora_alpha=adapter["alpha"]
        )
    if config["adapters"]:
        # `backbone.save_lora_weights` reads these.
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
        # Setting it on a layer also sets it on all layers inside.
        if x.trainable == (i in frozen):
            x.trainable = i not in frozen


def _add_left_out(config, backbone):
    """Adds arguments that KerasHub leaves out (`tie_word_embeddings`)."""
    for name in inspect.signature(type(backbone)).parameters:
        value = getattr(backbone, name, None)
        if name not in config and isinstance(value, _PLAIN):
            config[name] = value
