"""Transformers' Llama in the sizes of `shapes.py`, for the peers' scripts."""

import torch
import transformers
from shapes import PADDING_ID
from shapes import SEED


def make_model(size, vocabulary_size):
    """A randomly initialised Llama without a token that ends a text."""
    torch.manual_seed(SEED)
    config = transformers.LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=size.hidden_dim,
        intermediate_size=size.intermediate_dim,
        num_hidden_layers=size.num_layers,
        num_attention_heads=size.num_query_heads,
        num_key_value_heads=size.num_key_value_heads,
        tie_word_embeddings=True,
        # The value of KerasHub. With twice as much, tied models repeat prompts.
        initializer_range=0.01,
        pad_token_id=PADDING_ID,
        bos_token_id=None,
        eos_token_id=None,
    )
    return transformers.LlamaForCausalLM(config).float()
