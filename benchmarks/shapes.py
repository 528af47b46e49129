"""The sizes of the models and of the batch that are measured.

Nothing here depends on a framework: the peers read the same file.
"""

import dataclasses

import numpy as np

SEED = 0

# Prompts and samples do not contain these ids.
PADDING_ID, STOP_ID = 0, 1


@dataclasses.dataclass(frozen=True)
class Llama:
    """The size of a Llama model; embeddings are tied, weights are float32."""

    num_layers: int
    hidden_dim: int
    num_query_heads: int
    num_key_value_heads: int
    intermediate_dim: int


@dataclasses.dataclass(frozen=True)
class Shape:
    """A student, its teacher and a batch of prompts."""

    vocabulary_size: int
    student: Llama
    teacher: Llama
    batch_size: int = 8
    prompt_length: int = 32
    num_new_tokens: int = 64

    @property
    def sequence_length(self):
        return self.prompt_length + self.num_new_tokens

    def prompts(self):
        """Random token ids of shape `(batch_size, prompt_length)`."""
        return np.random.default_rng(SEED).integers(
            STOP_ID + 1,
            self.vocabulary_size,
            (self.batch_size, self.prompt_length),
        )

    def __str__(self):
        def size(model):
            return (
                f"{model.num_layers} layers x {model.hidden_dim} "
                f"({model.num_query_heads} heads, {model.num_key_value_heads} "
                f"for keys and values, MLP {model.intermediate_dim})"
            )

        return (
            f"batch {self.batch_size}, prompt {self.prompt_length}, "
            f"{self.num_new_tokens} new tokens; "
            f"student {size(self.student)}, teacher {size(self.teacher)}, "
            f"vocabulary {self.vocabulary_size:,}"
        )


_SMOLLM2_135M = Llama(
    num_layers=30,
    hidden_dim=576,
    num_query_heads=9,
    num_key_value_heads=3,
    intermediate_dim=1536,
)

SHAPES = {
    "small": Shape(
        vocabulary_size=4096,
        student=Llama(4, 128, 4, 2, 512),
        teacher=Llama(8, 384, 8, 4, 1536),
    ),
    # A student of a third of the layers, as in the example.
    "smollm2": Shape(
        vocabulary_size=49152,
        student=dataclasses.replace(_SMOLLM2_135M, num_layers=10),
        teacher=_SMOLLM2_135M,
    ),
    # For trying out the scripts: its times are meaningless.
    "toy": Shape(
        vocabulary_size=64,
        student=Llama(1, 16, 2, 1, 32),
        teacher=Llama(2, 32, 2, 1, 64),
        batch_size=2,
        prompt_length=4,
        num_new_tokens=8,
    ),
}
