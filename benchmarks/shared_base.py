"""Measures what a teacher that is the student's own base saves in memory.

    KERAS_BACKEND=torch python benchmarks/shared_base.py

A LoRA student of the size of SmolLM2-135M with a teacher of its own, and with
`keras_skd.without_lora`, each in a process of its own. Counted are the bytes of
their variables, and the growth of the resident memory while the models are made
and the distiller is, which is what a machine needs for them. Linux only: the
resident memory comes from /proc.
"""

import argparse
import gc
import math
import subprocess
import sys

from memory import resident

LORA_RANK = 8
VARIANTS = ("two models", "shared base")


def make_student():
    import keras_hub

    backbone = keras_hub.models.LlamaBackbone(
        vocabulary_size=49_152,
        num_layers=30,
        num_query_heads=9,
        num_key_value_heads=3,
        hidden_dim=576,
        intermediate_dim=1536,
        tie_word_embeddings=True,
    )
    return keras_hub.models.LlamaCausalLM(backbone)


def measure(variant):
    import keras

    import keras_skd

    keras.ops.sum(keras.ops.ones((64, 64)))  # What the backend itself takes.
    gc.collect()
    before = resident()
    student = make_student()
    student.backbone.enable_lora(LORA_RANK)
    if variant == "shared base":
        teacher = keras_skd.without_lora(student)
    else:
        teacher = make_student()
    distiller = keras_skd.Distiller(teacher, student, sequence_length=64)
    gc.collect()
    unique = {id(v): v for v in distiller.variables}.values()
    # All are of four bytes: float32, int32 or uint32.
    size = sum(4 * math.prod(v.shape) for v in unique)
    megabytes = size / 2**20, (resident() - before) / 2**20
    print(
        f"{keras.backend.backend()}, {variant}: {megabytes[0]:.0f} MiB of "
        f"variables, {megabytes[1]:.0f} MiB resident"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variant", choices=VARIANTS, help="for itself")
    variant = parser.parse_args().variant
    if variant:
        measure(variant)
        return
    for variant in VARIANTS:
        subprocess.run(
            [sys.executable, __file__, "--variant", variant],
            check=True,
        )


if __name__ == "__main__":
    main()
