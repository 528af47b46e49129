"""The tokens that end a response."""

import warnings

import keras_hub
import pytest

import keras_skd
from keras_skd._stop_tokens import resolve_stop_token_ids
from tests.support import bad_input
from tests.support import tokenizers
from tests.support.causal_lms import causal_lm


@pytest.fixture(scope="module")
def m():
    return bad_input.distillers()


# The end-of-text and end-of-turn tokens of all families.
ENDS = {
    "BLIP2CausalLM": None,  # These four write about images,
    "PARSeqCausalLM": None,
    "PaliGemmaCausalLM": None,
    "Gemma4AssistantCausalLM": None,  # and this one cannot tokenize.
    "BloomCausalLM": ["</s>"],
    "FalconCausalLM": ["<|endoftext|>"],
    "GPT2CausalLM": ["<|endoftext|>"],
    "GPTNeoXCausalLM": ["<|endoftext|>"],
    "GemmaCausalLM": ["<eos>"],
    "Gemma3CausalLM": ["<eos>", "<end_of_turn>"],
    "Gemma3nCausalLM": ["<eos>", "<end_of_turn>"],
    "Gemma4CausalLM": ["<eos>", "<turn|>"],
    "GptOssCausalLM": ["<|endoftext|>"],
    "LlamaCausalLM": ["</s>"],
    "Llama3CausalLM": ["<|end_of_text|>", "<|eot_id|>"],
    "MistralCausalLM": ["</s>"],
    "MixtralCausalLM": ["</s>"],
    "OPTCausalLM": ["</s>"],
    "Phi3CausalLM": ["<|endoftext|>", "<|end|>"],
    "QwenCausalLM": ["<|endoftext|>"],
    "Qwen2CausalLM": ["<|endoftext|>"],
    "QwenMoeCausalLM": ["<|endoftext|>"],
    "Qwen3CausalLM": ["<|im_end|>"],
    "Qwen3MoeCausalLM": ["<|im_end|>"],
    "Qwen3_5CausalLM": ["<|im_end|>"],
    "Qwen3_5MoeCausalLM": ["<|im_end|>"],
    "RWKV7CausalLM": [b"end"],
    "SmolLMCausalLM": ["<|end_of_text|>"],
    "SmolLM3CausalLM": ["<|end_of_text|>"],
}


GEMMA3N = dict(
    text_vocab_size=512,
    text_hidden_size=8,
    num_hidden_layers=1,
    pad_token_id=0,
    num_attention_heads=1,
    num_key_value_heads=1,
    head_dim=8,
    intermediate_size=[16],
    hidden_activation="gelu_approximate",
    layer_types=["full_attention"],
    sliding_window=4,
    rope_theta=10000.0,
    max_position_embeddings=16,
    vocab_size_per_layer_input=512,
    hidden_size_per_layer_input=2,
    altup_num_inputs=2,
    laurel_rank=1,
)


def _model(name):
    """A causal LM of a class, with a tokenizer that knows every special token.

    All share a backbone, which never runs.
    """
    model_class = getattr(keras_hub.models, name)
    preprocessor_class = model_class.preprocessor_cls
    preprocessor = preprocessor_class(
        tokenizers.of_class(preprocessor_class.tokenizer_cls)
    )
    preprocessor.sequence_length = 8
    backbone = bad_input.llama(vocabulary_size=512).backbone
    if name == "Gemma3nCausalLM":  # The one that needs its own.
        backbone = keras_hub.models.Gemma3nBackbone(**GEMMA3N)
    return model_class(backbone=backbone, preprocessor=preprocessor)


def _stops_of_kerashub(model):
    """The stop tokens of KerasHub's own `generate`, for a real prompt."""

    class Called(Exception):
        pass

    def generate_function(inputs, stop_token_ids):
        raise Called(*stop_token_ids)

    model.generate_function = generate_function
    with pytest.raises(Called) as info:
        model.generate("Alice was", max_length=8)
    return info.value.args


@pytest.mark.parametrize("name", [name for name in ENDS if ENDS[name]])
def test_stop_tokens_are_those_of_kerashub(name):
    model, student = _model(name), _model(name)
    tokenizer = model.preprocessor.tokenizer
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stops = resolve_stop_token_ids(
            "auto", model, student, model.preprocessor, 512
        )
    assert stops == _stops_of_kerashub(model)
    assert [tokenizer.id_to_token(i) for i in stops] == ENDS[name]
    # The model is unchanged.
    assert student.generate_function is None
    assert student.preprocessor.tokenizer is not tokenizer


def test_every_causal_lm_of_kerashub_is_known():
    names = {n for n in dir(keras_hub.models) if n.endswith("CausalLM")}
    assert names - {"CausalLM"} == set(ENDS)


def test_different_ends_are_joined_and_reported():
    preprocessor = tokenizers.gemma(turns=True)
    size = preprocessor.tokenizer.vocabulary_size()
    turn = preprocessor.tokenizer.token_to_id("<end_of_turn>")
    end = preprocessor.tokenizer.end_token_id
    teacher = causal_lm(
        "gemma3", vocabulary_size=size, preprocessor=preprocessor
    )
    student = causal_lm(
        "gemma", vocabulary_size=size, preprocessor=preprocessor
    )
    with pytest.warns(UserWarning, match="end their texts") as caught:
        distiller = keras_skd.Distiller(teacher, student)
    assert distiller.stop_token_ids == (end, turn)
    (warning,) = caught
    for shown in (
        f"the teacher with ({end}, {turn})",
        f"student with ({end},)",
    ):
        assert shown in str(warning.message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chosen = keras_skd.Distiller(teacher, student, stop_token_ids=(end,))
    assert chosen.stop_token_ids == (end,)


def test_a_vocabulary_without_the_end_of_a_turn():
    """GPT-2's has no `<turn|>`, at which Gemma 4 also stops."""
    preprocessor = tokenizers.gpt2()
    backbone = bad_input.llama(vocabulary_size=512).backbone
    model = keras_hub.models.Gemma4CausalLM(
        backbone=backbone, preprocessor=None
    )
    stops = resolve_stop_token_ids("auto", model, model, preprocessor, 512)
    assert stops == (preprocessor.tokenizer.end_token_id,)


@bad_input.cases(
    [
        (
            "stop_token_ids of a string",
            lambda m: m.make(stop_token_ids="<eos>"),
            TypeError,
            ["`stop_token_ids`", "'<eos>'"],
        ),
        (
            "stop_token_ids of an int",
            lambda m: m.make(stop_token_ids=3),
            TypeError,
            ["`stop_token_ids`", "3"],
        ),
        (
            "stop_token_ids of floats",
            lambda m: m.make(stop_token_ids=(3.0,)),
            TypeError,
            ["`stop_token_ids`", "(3.0,)"],
        ),
        (
            "stop_token_ids beyond the vocabulary",
            lambda m: m.make(stop_token_ids=(3, 32)),
            ValueError,
            ["`stop_token_ids`", "32 tokens", "Received: 32"],
        ),
        (
            "stop_token_ids below zero",
            lambda m: m.make(stop_token_ids=(-1,)),
            ValueError,
            ["`stop_token_ids`", "Received: -1"],
        ),
    ],
)
def test_bad_stop_token_ids(m, call, error, words):
    bad_input.check(m, call, error, words)
