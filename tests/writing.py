"""Models that disagree, prompts of many lengths, and ways to run them."""

import keras
import numpy as np
from keras import ops

import keras_skd
from tests.causal_lms import VOCABULARY_SIZE
from tests.causal_lms import causal_lm


def random_causal_lm(architecture="llama", seed=0, embedding=0.2, **overrides):
    """A tiny model with weights that are the same on every backend.

    KerasHub initialises with a small spread: attention is then nearly uniform
    and a token read at a wrong position changes nearly nothing. Here attention
    is sharp, biases are not zero and such an error is as large as the logits.
    """
    model = causal_lm(architecture, seed=seed, scale=1.0, **overrides)
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        noise = rng.normal(size=weight.shape)
        if "embedding" in weight.path:
            weight.assign(embedding * noise)
        elif len(weight.shape) == 1:
            # Scales stay around their one (or zero).
            weight.assign(ops.convert_to_numpy(weight) + 0.2 * noise)
        else:
            weight.assign(0.5 * noise)
    return model


def prompts(lengths, sequence_length, vocabulary_size=VOCABULARY_SIZE, seed=0):
    """A batch of random prompts of the given lengths, as token ids."""
    mask = np.arange(sequence_length) < np.array(lengths)[:, None]
    rng = np.random.default_rng(seed)
    token_ids = rng.integers(1, vocabulary_size, mask.shape) * mask
    return {
        "token_ids": token_ids.astype("int32"),
        "padding_mask": mask.astype("int32"),
    }


def compiled(function):
    """XLA where the library runs with XLA, so that tests take its time."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=True, autograph=False)
    import torch

    return torch.no_grad()(function)


def forward(model):
    """A function from token ids to logits, whole sequences, no cache."""
    compiled_model = compiled(
        lambda token_ids: model(
            {
                "token_ids": token_ids,
                "padding_mask": ops.ones_like(token_ids),
            }
        )
    )

    def logits(token_ids):
        token_ids = ops.convert_to_tensor(token_ids, "int32")
        return ops.convert_to_numpy(compiled_model(token_ids))

    return logits


def write(
    rollout, teacher, student, batch, stop_token_ids=(), seed=None, xla=True
):
    """What a rollout writes, as NumPy arrays."""
    distiller = keras_skd.Distiller(
        teacher, student, rollout, stop_token_ids=stop_token_ids, seed=seed
    )
    if xla:
        return distiller.generate_rollout(batch)
    written = distiller.write(
        {key: ops.convert_to_tensor(value) for key, value in batch.items()}
    )
    return {key: ops.convert_to_numpy(x) for key, x in written.items()}
