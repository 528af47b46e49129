"""Measures the first training step, which compiles, and the second.

    python benchmarks/first_step.py --backends jax --windows 128 1024

Each in a process of its own: *cold*, and on JAX and TensorFlow *warm*, with
what a process before it has left in the persistent compilation cache. Every
draft is accepted, and a row writes 64 tokens, whatever the room.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

from run import BACKENDS
from run import environment
from shapes import SHAPES


def measure(shape_name, window, label):
    """Emits the seconds of two steps, in this process."""
    import keras
    import ours
    from timing import emit

    shape = SHAPES[shape_name]
    sampler = ours.StopsAfter(shape.num_new_tokens)
    rollout = ours.Speculative(
        ours.TopK(shape.vocabulary_size), student_sampler=sampler
    )
    distiller = ours.Bench(shape).distiller(rollout, (ours.STOP_ID,))
    step = ours.step(distiller, ours.make_batch(shape, window))
    emit(
        first_step=label,
        backend=keras.config.backend(),
        shape=shape_name,
        window=window,
        seconds=[ours.from_zero(sampler, step)()["seconds"] for _ in range(2)],
    )


def cached(backend, folder):
    """The environment of a process that keeps what it compiles."""
    if backend == "jax":
        return {"JAX_COMPILATION_CACHE_DIR": folder}
    return {"TF_XLA_FLAGS": f"--tf_xla_persistent_cache_directory={folder}"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="smollm2")
    parser.add_argument(
        "--backends", nargs="+", choices=BACKENDS, default=BACKENDS
    )
    parser.add_argument("--windows", nargs="+", type=int, default=[128, 1024])
    parser.add_argument("--label", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.label:
        measure(args.shape, args.windows[0], args.label)
        return
    for backend in args.backends:
        for window in args.windows:
            with tempfile.TemporaryDirectory() as folder:
                for label in ("cold", "fills the cache", "warm"):
                    extra = cached(backend, folder) if label != "cold" else {}
                    command = [sys.executable, pathlib.Path(__file__)]
                    command += ["--shape", args.shape, "--label", label]
                    subprocess.run(
                        [*command, "--windows", str(window)],
                        env={**environment(backend), **extra},
                        check=True,
                    )
                    if backend == "torch":
                        break  # It has no such cache.


if __name__ == "__main__":
    main()
