"""Small distillers of text, greedy and so the same in every step."""

import keras

import keras_skd
from tests.support import tokenizers
from tests.support.writing import random_causal_lm

LENGTH = 16
K = 120
TRAINING = {
    "prompts": ["Alice was", "Would you tell me, please", "The begin"],
}
HELD_OUT = {
    "prompts": ["Alice was", "Would you tell me, please", "The begin", "said"],
    "responses": [" very tired", " which way", "ning", " the Cat."],
}


def models(preprocessor=None, **kwargs):
    """A teacher and a student that read text, the same on every backend."""
    preprocessor = preprocessor or tokenizers.gpt2(sequence_length=LENGTH)
    arguments = dict(
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=8,
        dropout=0.0,
        vocabulary_size=preprocessor.tokenizer.vocabulary_size(),
        preprocessor=preprocessor,
        **kwargs,
    )
    return [random_causal_lm("gpt2", seed=seed, **arguments) for seed in (1, 2)]


def speculative(**kwargs):
    return keras_skd.rollouts.Speculative(
        acceptance=keras_skd.acceptance.TopK(K),
        student_sampler="greedy",
        teacher_sampler="greedy",
        **{"num_speculative_tokens": 3, **kwargs},
    )


def text_distiller(rollout=None, learning_rate=0.0, teacher_and_student=None):
    """A compiled distiller of text.

    Args:
        rollout: a rollout. Defaults to a greedy `Speculative`.
        learning_rate: float. Defaults to 0, a student that stays as it is.
        teacher_and_student: pair of models. Defaults to `models()`.
    """
    teacher, student = teacher_and_student or models()
    distiller = keras_skd.Distiller(
        teacher, student, rollout or speculative(), seed=0
    )
    distiller.compile(optimizer=keras.optimizers.SGD(learning_rate))
    return distiller
