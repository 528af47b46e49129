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
    """The size of a Llama model; embeddings are tied."""

    num_layers: int
    hidden_dim: int
    num_query_heads: int
    num_key_value_heads: int
    intermediate_dim: int

    @property
    def size_of_head(self):
        """The number of dimensions of an attention head."""
        return self.hidden_dim // self.num_query_heads


@dataclasses.dataclass(frozen=True)
class Gemma3(Llama):
    """The size of a Gemma 3 model."""

    head_dim: int = 256

    @property
    def size_of_head(self):
        return self.head_dim


@dataclasses.dataclass(frozen=True)
class Shape:
    """A student, its teacher and a batch of prompts.

    The weights of the student are float32. In bfloat16, those of the teacher
    are too, and the student computes in it.
    """

    vocabulary_size: int
    student: Llama
    teacher: Llama
    batch_size: int = 8
    prompt_length: int = 32
    num_new_tokens: int = 64
    dtype: str = "float32"

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

    def num_weights(self, model):
        """How many weights the products have in the layers, and in the head."""
        heads = 2 * (model.num_query_heads + model.num_key_value_heads)
        layer = heads * model.size_of_head + 3 * model.intermediate_dim
        return (
            model.num_layers * layer * model.hidden_dim,
            self.vocabulary_size * model.hidden_dim,
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
            f"vocabulary {self.vocabulary_size:,}, {self.dtype}"
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
    # 270M and 1B: for an accelerator.
    "gemma3": Shape(
        vocabulary_size=262144,
        student=Gemma3(18, 640, 4, 1, 2048),
        teacher=Gemma3(26, 1152, 4, 1, 6912),
        batch_size=32,
        prompt_length=64,
        num_new_tokens=128,
        dtype="bfloat16",
    ),
    # For trying out the scripts: their times are meaningless.
    "toy_gemma3": Shape(
        vocabulary_size=64,
        student=Gemma3(1, 16, 2, 1, 32, head_dim=8),
        teacher=Gemma3(2, 32, 2, 1, 64, head_dim=8),
        batch_size=2,
        prompt_length=4,
        num_new_tokens=8,
        dtype="bfloat16",
    ),
    "toy": Shape(
        vocabulary_size=64,
        student=Llama(1, 16, 2, 1, 32),
        teacher=Llama(2, 32, 2, 1, 64),
        batch_size=2,
        prompt_length=4,
        num_new_tokens=8,
    ),
}
