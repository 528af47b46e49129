"""Measures the memory of the loss at a large vocabulary, on one backend.

    KERAS_BACKEND=jax python benchmarks/memory.py

The loss on hidden states and its gradients, with and without the logits of the
whole batch, each in its own process. The measure is the peak of the resident
memory above that before the call, without the gradients that it returns. Linux
only: the peak comes from /proc.
"""

import argparse
import ctypes
import gc
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from shapes import SEED
from timing import emit
from timing import emit_versions
from timing import interleave
from timing import timed

BATCH_SIZE, RESPONSE_LENGTH = 4, 128
VARIANTS = {
    "chunked": "loss and gradients by ChunkedLoss",
    "whole": "loss and gradients of whole logits",
}


def resident(peak=False):
    """The resident memory of this process in bytes, or its peak."""
    name = "VmHWM:" if peak else "VmRSS:"
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


def settle():
    """Frees unused memory, and resets the peak."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def make_function(variant, vocabulary_size, hidden_dim):
    """Returns `() -> (loss, gradients)`, compiled where the backend does."""
    import keras
    from keras import ops
    from ours import make_model
    from shapes import Llama

    from keras_skd import Source
    from keras_skd._backend import value_and_gradients
    from keras_skd._objective.chunked_loss import ChunkedLoss
    from keras_skd.decoding import CachedCausalLM
    from keras_skd.losses import ForwardKL

    keras.utils.set_random_seed(SEED)
    # Of the models, only the heads are used.
    size = Llama(1, hidden_dim, 1, 1, 8)
    teacher = make_model(size, vocabulary_size)
    student = make_model(size, vocabulary_size)
    teacher.trainable = False
    teacher_lm, student_lm = CachedCausalLM(teacher), CachedCausalLM(student)
    variables = student_lm.head_variables + teacher_lm.head_variables

    # Every position but the first is part of a response, so that the loss needs
    # all of the logits.
    shape = BATCH_SIZE, RESPONSE_LENGTH + 1
    random = np.random.default_rng(SEED)
    mask = np.ones(shape, bool)
    mask[:, 0] = False
    rollout = {
        "token_ids": random.integers(2, vocabulary_size, shape),
        "response_mask": mask,
        "sources": np.where(mask, Source.STUDENT, Source.PROMPT),
    }
    states = [
        # Large enough for distributions that are far from uniform.
        ops.convert_to_tensor(
            random.normal(scale=10.0, size=(*shape, hidden_dim)), "float32"
        )
        for _ in range(2)
    ]
    loss = ForwardKL()
    chunked_loss = ChunkedLoss(loss, teacher_lm, student_lm)

    def whole_loss(student_states, teacher_states, rollout):
        values = loss.position_values(
            teacher_lm.logits(teacher_states[:, :-1]),
            student_lm.logits(student_states[:, :-1]),
        )
        return loss.reduce(values, rollout["response_mask"][:, 1:])

    loss_of = {"chunked": chunked_loss, "whole": whole_loss}[variant]

    def function(student_states, student_head, teacher_states, teacher_head):
        constants = {k: ops.convert_to_tensor(v) for k, v in rollout.items()}

        def value(student_states, student_head):
            heads = zip(variables, [student_head, teacher_head])
            with keras.StatelessScope(heads):
                return loss_of(student_states, teacher_states, constants)

        return value_and_gradients(value, [student_states, student_head])

    arguments = [
        states[0],
        ops.convert_to_tensor(variables[0]),
        states[1],
        ops.convert_to_tensor(variables[1]),
    ]
    if keras.config.backend() == "jax":
        import jax

        function = jax.jit(function)
        return lambda: jax.block_until_ready(function(*arguments))
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        function = tf.function(function, jit_compile=True, autograph=False)
    return lambda: function(*arguments)


def measure(variant, output, repeats, vocabulary_size, hidden_dim):
    """Measures one variant, and saves the loss and its gradients."""
    import keras
    from keras import ops

    function = make_function(variant, vocabulary_size, hidden_dim)
    loss, gradients = function()
    arrays = [ops.convert_to_numpy(x) for x in (loss, *gradients)]
    num_bytes = sum(x.nbytes for x in arrays)
    np.savez(output, *arrays)
    del loss, gradients, arrays

    def call():
        settle()
        before = resident()
        record = timed(function)()
        above = resident(peak=True) - before - num_bytes
        return {**record, "gigabytes": above / 1e9}

    interleave(
        {VARIANTS[variant]: call},
        repeats,
        shape="loss",
        backend=keras.config.backend(),
    )


def largest_difference(paths):
    """Compares two files of arrays, relative to each array's largest value."""
    first, second = (np.load(path) for path in paths)
    return max(
        float(np.abs(first[key] - second[key]).max() / np.abs(first[key]).max())
        for key in first.files
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--vocabulary-size", type=int, default=262144)
    parser.add_argument("--hidden-dim", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--output", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.variant:
        measure(
            args.variant,
            args.output,
            args.repeats,
            args.vocabulary_size,
            args.hidden_dim,
        )
        return
    backend = os.environ["KERAS_BACKEND"]
    emit_versions("keras", "keras-hub", backend, backend=backend)
    # TensorFlow's allocator for oneDNN keeps what it once had.
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"}
    with tempfile.TemporaryDirectory() as directory:
        paths = [f"{directory}/{variant}.npz" for variant in VARIANTS]
        for variant, path in zip(VARIANTS, paths):
            command = [sys.executable, *sys.argv]
            command += ["--variant", variant, "--output", path]
            subprocess.run(command, check=True, env=environment)
        emit(
            measurement="largest difference between the two, relative",
            phase="counted",
            shape="loss",
            backend=backend,
            difference=largest_difference(paths),
        )


if __name__ == "__main__":
    main()
