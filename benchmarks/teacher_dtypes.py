"""Measures a teacher in float32, bfloat16 and int8.

    KERAS_BACKEND=jax python benchmarks/teacher_dtypes.py

The models are those of the example: SmolLM2-135M-Instruct, and a third of its
layers, not yet distilled. `kl` is the forward KL divergence from the float32
teacher to the measured one, in nats for a token, on text of the former.
"""

import argparse

import keras
from ours import TopK
from ours import write
from shapes import SEED
from shapes import SHAPES
from timing import emit_versions
from timing import interleave
from trained_pair import SHAPE
from trained_pair import make_batches
from trained_pair import smollm2

import keras_skd

DTYPES = ("float32", "bfloat16", "int8")


def copy_in(dtype, teacher):
    """A copy of a float32 teacher in another dtype, without a preprocessor."""
    config = teacher.backbone.get_config()
    if dtype == "bfloat16":
        config["dtype"] = dtype
    backbone = type(teacher.backbone).from_config(config)
    backbone.set_weights(teacher.backbone.get_weights())
    copy = type(teacher)(backbone=backbone, preprocessor=None)
    if dtype == "int8":
        copy.quantize(dtype)
    return copy


def measurements(teacher, student, batch, dtypes):
    """Rollouts with a copy of the teacher in each dtype."""
    for dtype in dtypes:
        copy = copy_in(dtype, teacher)
        other = keras_skd.Distiller(
            teacher,
            copy,
            rollout=keras_skd.rollouts.Teacher(),
            seed=SEED,
        )
        other.compile(loss="forward_kl")
        kl = other.evaluate(batch, verbose=0, return_dict=True)["kl"]
        for name, k in (
            ("every draft accepted", teacher.backbone.vocabulary_size),
            ("K = 25", 25),
        ):
            distiller = keras_skd.Distiller(
                copy,
                student,
                rollout=keras_skd.rollouts.Speculative(acceptance=TopK(k)),
                seed=SEED,
            )
            measure = write(distiller, batch, also=["acceptance_rate"])
            yield (
                f"SKD rollout, {dtype} teacher, {name}",
                lambda measure=measure, kl=kl: {**measure(), "kl": kl},
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dtypes", nargs="+", default=DTYPES, choices=DTYPES)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    backend = keras.config.backend()
    emit_versions("keras", "keras-hub", backend, backend=backend)

    keras.utils.set_random_seed(SEED)
    teacher = smollm2.load_teacher()
    student = smollm2.make_student(teacher)
    batch = make_batches(student.preprocessor.tokenizer, SHAPES[SHAPE], 1)
    # The data is token ids, and no token ends a response.
    teacher.preprocessor = student.preprocessor = None
    interleave(
        dict(measurements(teacher, student, batch, args.dtypes)),
        args.repeats,
        shape=SHAPE,
        backend=backend,
    )


if __name__ == "__main__":
    main()
