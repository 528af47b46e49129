"""Real KerasHub tokenizers, made from real sentences. No downloads.

The sentences are from Lewis Carroll, "Alice's Adventures in Wonderland".
"""

import io

import keras_hub
import sentencepiece

SENTENCES = [
    "Alice was beginning to get very tired of sitting by her sister on the "
    "bank, and of having nothing to do.",
    "There was nothing so very remarkable in that.",
    "Would you tell me, please, which way I ought to go from here?",
    "That depends a good deal on where you want to get to, said the Cat.",
    "Begin at the beginning, the King said, very gravely, and go on till you "
    "come to the end: then stop.",
]


def gpt2(sentences=SENTENCES, sequence_length=16, **kwargs):
    """A GPT-2 preprocessor in which every known word is one token."""
    vocabulary, merges = byte_pairs(["<|endoftext|>"], sentences)
    tokenizer = keras_hub.tokenizers.GPT2Tokenizer(vocabulary, merges)
    return keras_hub.models.GPT2CausalLMPreprocessor(
        tokenizer, sequence_length=sequence_length, **kwargs
    )


def llama3(sentences=SENTENCES, sequence_length=16, **kwargs):
    """A Llama 3 preprocessor with two end tokens."""
    special = [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|eot_id|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
    ]
    vocabulary, merges = byte_pairs(special, sentences)
    tokenizer = keras_hub.tokenizers.Llama3Tokenizer(vocabulary, merges)
    return keras_hub.models.Llama3CausalLMPreprocessor(
        tokenizer, sequence_length=sequence_length, **kwargs
    )


def gemma(sentences=SENTENCES, sequence_length=16, turns=False, **kwargs):
    """A Gemma preprocessor, which has a padding token.

    With `turns`, it also has the tokens around the turns of a chat.
    """
    proto = sentence_piece(
        sentences,
        ["<pad>", "<bos>", "<eos>", "<unk>"],
        add_dummy_prefix=False,
        user_defined_symbols=["<start_of_turn>", "<end_of_turn>"] * turns,
    )
    return keras_hub.models.GemmaCausalLMPreprocessor(
        keras_hub.tokenizers.GemmaTokenizer(proto),
        sequence_length=sequence_length,
        **kwargs,
    )


def llama(sentences=SENTENCES, sequence_length=16, **kwargs):
    """A Llama 2 preprocessor, which pads with the id of the unknown token."""
    proto = sentence_piece(sentences, ["<unk>", "<s>", "</s>"])
    return keras_hub.models.LlamaCausalLMPreprocessor(
        keras_hub.tokenizers.LlamaTokenizer(proto),
        sequence_length=sequence_length,
        **kwargs,
    )


# Of all families.
SPECIAL_TOKENS = [
    "<s>",
    "</s>",
    "<pad>",
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<think>",
    "</think>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|end|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<turn|>",
    "<mask>",
    "[multimodal]",
    "<img>",
    "<image_soft_token>",
    "<audio_soft_token>",
    "<start_of_image>",
    "<end_of_image>",
    "<start_of_audio>",
    "<end_of_audio>",
    "<|image>",
    "<|image|>",
    "<image|>",
    "<|video|>",
]


def of_class(tokenizer_class):
    """A tokenizer of any class that knows the special tokens of all classes."""
    if issubclass(tokenizer_class, keras_hub.tokenizers.SentencePieceTokenizer):
        special = ["<pad>", "<bos>", "<eos>", "<unk>"]
        own = [token for token in SPECIAL_TOKENS if token not in special]
        proto = sentence_piece(SENTENCES, special, user_defined_symbols=own)
        return tokenizer_class(proto)
    if issubclass(tokenizer_class, keras_hub.tokenizers.BytePairTokenizer):
        return tokenizer_class(*byte_pairs(SPECIAL_TOKENS, SENTENCES))
    words = ["pad", "end", *sorted({*"".join(SENTENCES)})]
    lines = [f"{i} {word!r} {len(word)}" for i, word in enumerate(words)]
    return tokenizer_class(lines, end_token_id=1)


def byte_pairs(special_tokens, sentences):
    """The vocabulary and the merges that build each word letter by letter."""
    words = [word for s in sentences for word in s.split(" ")]
    # A space belongs to the word that follows it, and is written as Ġ.
    words = [f"Ġ{word}" for word in words] + words
    letters = sorted({letter for word in words for letter in word})
    merges = {}
    for word in words:
        for i in range(1, len(word)):
            merges[f"{word[:i]} {word[i]}"] = word[: i + 1]
    tokens = dict.fromkeys([*special_tokens, *letters, *merges.values()])
    return {token: i for i, token in enumerate(tokens)}, list(merges)


SPECIAL = {
    "bos": ("<bos>", "<s>"),
    "eos": ("<eos>", "</s>"),
    "pad": ("<pad>",),
    "unk": ("<unk>",),
}


def sentence_piece(sentences, special_tokens, vocab_size=192, **kwargs):
    """A trained SentencePiece model that starts with the special tokens."""
    for name, pieces in SPECIAL.items():
        (piece,) = {*pieces} & {*special_tokens} or {None}
        if piece is None:
            kwargs[f"{name}_id"] = -1
        else:
            kwargs[f"{name}_id"] = special_tokens.index(piece)
            kwargs[f"{name}_piece"] = piece
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        vocab_size=vocab_size,
        model_type="bpe",
        minloglevel=2,
        **kwargs,
    )
    return model.getvalue()
