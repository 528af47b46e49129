"""A tiny model in place of SmolLM2."""

import keras
import keras_hub
import smollm2


def mended(model):
    """A model as `smollm2.load_teacher` returns it, whose layers matter.

    With KerasHub's initialisation, layers of this size have almost no effect.
    """
    smollm2.mend_backbone_config()
    smollm2.mend_tokenizer(model)
    for weight in model.backbone.weights:
        if len(weight.shape) > 1:
            weight.assign(30 * weight)
    return model


def causal_lm():
    """A tiny model, made as KerasHub makes one of SmolLM2's files.

    Its vocabulary only covers "what is it?".
    """
    keras.utils.set_random_seed(0)
    chatml = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    # Byte-pair encoding writes a line break as Ċ and a space as Ġ.
    text = smollm2.chat("what is it?").replace("\n", "Ċ").replace(" ", "Ġ")
    tokens = [*chatml, *sorted(set(text)), "it"]
    tokenizer = keras_hub.tokenizers.Llama3Tokenizer(
        vocabulary={token: i for i, token in enumerate(tokens)},
        merges=["i t"],
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        misc_special_tokens=set(chatml),
    )
    backbone = keras_hub.models.Llama3Backbone(
        vocabulary_size=len(tokens),
        num_layers=6,
        num_query_heads=2,
        num_key_value_heads=1,
        hidden_dim=8,
        intermediate_dim=16,
        tie_word_embeddings=True,
    )
    return keras_hub.models.Llama3CausalLM(
        backbone=backbone,
        preprocessor=keras_hub.models.Llama3CausalLMPreprocessor(tokenizer),
    )
