"""The architecture and the sizes of teachers and students."""

import keras
import keras_hub

# A student has about a tenth of its teacher's parameters. "small" is for the
# short form of the experiment, and for tests.
WIDTHS = {
    "full": {
        "teacher": dict(num_layers=4, hidden_dim=256, intermediate_dim=704),
        "student": dict(num_layers=4, hidden_dim=80, intermediate_dim=224),
    },
    "small": {
        "teacher": dict(num_layers=3, hidden_dim=128, intermediate_dim=352),
        "student": dict(num_layers=2, hidden_dim=48, intermediate_dim=128),
    },
}


def make(task, role, scale, tokenizer, seed):
    """A causal LM of Llama 3's architecture, with random weights.

    Args:
        task: a `Task`.
        role: `"teacher"` or `"student"`.
        scale: `"full"` or `"small"`.
        tokenizer: a `keras_hub.tokenizers.Llama3Tokenizer`.
        seed: int.
    """
    keras.utils.set_random_seed(seed)
    backbone = keras_hub.models.Llama3Backbone(
        vocabulary_size=tokenizer.vocabulary_size(),
        num_query_heads=4,
        num_key_value_heads=4,
        **WIDTHS[scale][role],
    )
    preprocessor = keras_hub.models.Llama3CausalLMPreprocessor(
        tokenizer, sequence_length=task.sequence_length
    )
    return keras_hub.models.Llama3CausalLM(
        backbone=backbone, preprocessor=preprocessor
    )
