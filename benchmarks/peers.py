"""Transformers' models in the sizes of `shapes.py`, for the peers' scripts."""

import torch
import transformers
from shapes import PADDING_ID
from shapes import SEED
from shapes import Gemma3


def make_model(shape, size, dtype="float32"):
    """A randomly initialised model without a token that ends a text."""
    torch.manual_seed(SEED)
    is_gemma = isinstance(size, Gemma3)
    kind = "Gemma3" if is_gemma else "Llama"
    make_config = getattr(transformers, f"{kind}{'Text' * is_gemma}Config")
    config = make_config(
        vocab_size=shape.vocabulary_size,
        hidden_size=size.hidden_dim,
        intermediate_size=size.intermediate_dim,
        num_hidden_layers=size.num_layers,
        num_attention_heads=size.num_query_heads,
        num_key_value_heads=size.num_key_value_heads,
        head_dim=size.size_of_head,
        tie_word_embeddings=True,
        # The value of KerasHub. With twice as much, tied models repeat prompts.
        initializer_range=0.01,
        pad_token_id=PADDING_ID,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    return model.to(getattr(torch, dtype))


def make_models(shape):
    """The student and the teacher, as arguments of TRL's trainers."""
    return {
        "model": make_model(shape, shape.student),
        "teacher_model": make_model(shape, shape.teacher, shape.dtype),
    }


def training_arguments(shape):
    """How TRL trains: on a GPU if there is one, and in which precision."""
    return {
        "bf16": shape.dtype == "bfloat16",
        "use_cpu": not torch.cuda.is_available(),
    }
