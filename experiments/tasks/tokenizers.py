"""KerasHub tokenizers for a task's own vocabulary."""

import keras_hub

SPECIAL_TOKENS = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
]


def from_units(units):
    """A byte-pair tokenizer of letters and of given longer units.

    Args:
        units: iterable of strings of letters or of symbols, with a space as
            `"Ġ"`. A unit of several characters is merged from the left.
    """
    units = sorted(set(units))
    merges = {}
    for unit in units:
        for end in range(2, len(unit) + 1):
            merges[f"{unit[: end - 1]} {unit[end - 1]}"] = unit[:end]
    letters = sorted({letter for unit in units for letter in unit})
    tokens = dict.fromkeys([*SPECIAL_TOKENS, *letters, *merges.values()])
    return _tokenizer({token: i for i, token in enumerate(tokens)}, [*merges])


def train_byte_pairs(texts, vocabulary_size):
    """A byte-pair tokenizer trained on texts."""
    import json

    import tokenizers

    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    byte_level = tokenizers.pre_tokenizers.ByteLevel
    model.pre_tokenizer = byte_level(add_prefix_space=False)
    model.train_from_iterator(
        texts,
        tokenizers.trainers.BpeTrainer(
            vocab_size=vocabulary_size,
            special_tokens=SPECIAL_TOKENS,
            initial_alphabet=byte_level.alphabet(),
            show_progress=False,
        ),
    )
    trained = json.loads(model.to_str())["model"]
    merges = [
        merge if isinstance(merge, str) else " ".join(merge)
        for merge in trained["merges"]
    ]
    return _tokenizer(trained["vocab"], merges)


def _tokenizer(vocabulary, merges):
    return keras_hub.tokenizers.Llama3Tokenizer(vocabulary, merges)
