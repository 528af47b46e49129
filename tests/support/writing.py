"""Models that disagree, prompts of many lengths, and functions to run them."""

import keras
import numpy as np
from keras import ops
from keras import tree

import keras_skd
from tests.support.causal_lms import VOCABULARY_SIZE
from tests.support.causal_lms import causal_lm


def random_causal_lm(architecture="llama", seed=0, embedding=0.15, **overrides):
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
            # Scales stay around one (or zero).
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


def compiled(function, xla=True):
    """A function from NumPy to NumPy, by XLA where the library uses XLA.

    Args:
        function: callable from tensors to tensors.
        xla: bool. False goes without XLA where it can: TensorFlow takes less
            time for a few eager steps than for a compilation.
    """
    if keras.backend.backend() == "jax":
        import jax

        run = jax.jit(function)
    elif keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        run = function
        if xla:
            run = tf.function(function, jit_compile=True, autograph=False)
    else:
        import torch

        run = torch.no_grad()(function)

    def call(*arguments):
        arguments = tree.map_structure(ops.convert_to_tensor, arguments)
        return tree.map_structure(ops.convert_to_numpy, run(*arguments))

    return call


def forward(model, xla=False):
    """A function from token ids to logits: whole sequences, no cache."""

    def logits(token_ids):
        padding_mask = ops.ones_like(token_ids)
        return model({"token_ids": token_ids, "padding_mask": padding_mask})

    return compiled(logits, xla)


class AcceptNothing(keras_skd.acceptance.TeacherRule):
    def accept(self, token_ids, teacher_logits, training_step=0):
        return token_ids < 0


def write(
    rollout, teacher, student, batch, stop_token_ids=(), seed=None, xla=True
):
    """The outputs of a rollout, as NumPy arrays."""
    distiller = keras_skd.Distiller(
        teacher, student, rollout, stop_token_ids=stop_token_ids, seed=seed
    )
    return writer(distiller, xla)(batch)


def writer(distiller, xla=True):
    """A function from batches to the outputs of the distiller's rollout.

    Args:
        distiller: a `keras_skd.Distiller` of token ids.
        xla: bool. As in `compiled`.
    """

    def run(batch):
        batch = {k: ops.convert_to_tensor(v) for k, v in batch.items()}
        if xla or keras.backend.backend() != "tensorflow":
            written = distiller.rollout_function(batch)
        else:
            written = distiller.write(batch, distiller.rollout)
        return {k: ops.convert_to_numpy(v) for k, v in written.items()}

    return run


def count_authors(written, by_rollout):
    """How many rows each of several rollouts wrote, according to the text.

    Args:
        written: dict. The output of a mixture of them.
        by_rollout: list of pairs of token ids and sources. What each would
            have written alone; every row must be one of these.

    Returns:
        int array, a number for each. Rows that two would write alike count
        for neither.
    """
    same = np.array(
        [
            (written["token_ids"] == token_ids).all(1)
            & (written["sources"] == row_sources).all(1)
            for token_ids, row_sources in by_rollout
        ]
    )
    assert same.any(axis=0).all()
    return (same & (same.sum(axis=0) == 1)).sum(axis=1)
