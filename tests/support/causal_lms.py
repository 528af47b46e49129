"""Tiny, randomly initialised KerasHub causal LMs of every architecture."""

import keras
import keras_hub

VOCABULARY_SIZE = 32

_GROUPED = dict(
    num_layers=2,
    num_query_heads=4,
    num_key_value_heads=2,
    hidden_dim=16,
    intermediate_dim=24,
)
_PLAIN = dict(num_layers=2, num_heads=2, hidden_dim=16, intermediate_dim=24)

# Name -> (model class name, backbone arguments). Sliding windows are shorter
# than the test sequences, dropout is on where the architecture has it.
ARCHITECTURES = {
    "gpt2": ("GPT2", dict(_PLAIN, max_sequence_length=64, dropout=0.1)),
    "llama": ("Llama", dict(_GROUPED)),
    "llama3": ("Llama3", dict(_GROUPED, tie_word_embeddings=True)),
    "mistral": ("Mistral", dict(_GROUPED, sliding_window=6)),
    "mixtral": ("Mixtral", dict(_GROUPED, sliding_window=6, num_experts=2)),
    "gemma": (
        "Gemma",
        dict(_GROUPED, num_key_value_heads=1, head_dim=4),
    ),
    "gemma2": (
        "Gemma",
        dict(
            _GROUPED,
            head_dim=4,
            use_post_ffw_norm=True,
            use_post_attention_norm=True,
            attention_logit_soft_cap=50.0,
            final_logit_soft_cap=30.0,
            use_sliding_window_attention=True,
            sliding_window_size=6,
        ),
    ),
    "gemma3": (
        "Gemma3",
        dict(
            _GROUPED,
            image_size=16,
            head_dim=4,
            use_post_ffw_norm=True,
            use_post_attention_norm=True,
            use_sliding_window_attention=True,
            sliding_window_size=6,
        ),
    ),
    "qwen": ("Qwen", dict(_GROUPED)),
    "qwen3": ("Qwen3", dict(_GROUPED, head_dim=4)),
    "qwen_moe": (
        "QwenMoe",
        dict(
            _GROUPED,
            moe_intermediate_dim=8,
            shared_expert_intermediate_dim=8,
            num_experts=2,
            top_k=2,
        ),
    ),
    "qwen3_moe": (
        "Qwen3Moe",
        dict(
            _GROUPED,
            head_dim=4,
            moe_intermediate_dim=8,
            num_experts=2,
            top_k=2,
        ),
    ),
    "phi3": ("Phi3", dict(_GROUPED)),
    "falcon": (
        "Falcon",
        dict(
            num_layers=2,
            num_attention_heads=2,
            hidden_dim=16,
            intermediate_dim=24,
        ),
    ),
    "bloom": ("Bloom", dict(_PLAIN)),
    "opt": ("OPT", dict(_PLAIN, max_sequence_length=64)),
    "smollm3": (
        "SmolLM3",
        dict(
            num_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            hidden_dim=16,
            intermediate_dim=24,
            attention_bias=False,
            attention_dropout=0.0,
            rope_layer_enabled_list=[True, False],
            layer_types=["attention", "attention"],
            mlp_bias=False,
            layer_norm_epsilon=1e-6,
            max_position_embeddings=64,
            rope_theta=10000.0,
            partial_rotary_factor=1.0,
        ),
    ),
    "gpt_oss": (
        "GptOss",
        dict(_GROUPED, num_experts=2, sliding_window=6, head_dim=4),
    ),
    "gpt_neo_x": ("GPTNeoX", dict(_PLAIN, max_sequence_length=64)),
}

# Architectures whose cache is a state that cannot be rolled back.
RECURRENT = {
    "rwkv7": (
        "RWKV7",
        dict(
            num_layers=2,
            hidden_size=16,
            head_size=8,
            intermediate_dim=24,
            gate_lora=8,
            mv_lora=8,
            aaa_lora=8,
            decay_lora=8,
        ),
    ),
    "qwen3_5": (
        "Qwen3_5",
        dict(
            _GROUPED,
            head_dim=8,
            layer_types=["linear_attention", "full_attention"],
            linear_num_key_heads=2,
            linear_num_value_heads=2,
            linear_key_head_dim=4,
            linear_value_head_dim=4,
        ),
    ),
}


def causal_lm(
    architecture="llama",
    seed=0,
    vocabulary_size=VOCABULARY_SIZE,
    scale=6.0,
    preprocessor=None,
    **overrides,
):
    """A tiny random model whose predictions are far from uniform.

    KerasHub initialises with a small spread, which makes every argmax a
    near tie; `scale` multiplies the embedding so that greedy choices are
    decided by more than rounding.
    """
    name, arguments = {**ARCHITECTURES, **RECURRENT}[architecture]
    keras.utils.set_random_seed(seed)
    backbone = getattr(keras_hub.models, f"{name}Backbone")(
        vocabulary_size=vocabulary_size, **{**arguments, **overrides}
    )
    for weight in backbone.token_embedding.weights:
        weight.assign(weight * scale)
    model_class = getattr(keras_hub.models, f"{name}CausalLM")
    return model_class(backbone=backbone, preprocessor=preprocessor)
