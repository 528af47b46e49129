"""Measures what a training step needs in memory, and what each setting saves.

    KERAS_BACKEND=torch python benchmarks/step_memory.py

The student and the teacher of a shape (see `shapes.py`), each setting in a
process of its own. Counted are the bytes of the variables of teacher, student
and optimizer, and the peak of the resident memory in the second step of `fit`,
rollout and training, above that before the step; the first step compiles. Linux
only: the peak comes from /proc.
"""

import argparse
import math
import os
import re
import subprocess
import sys

from memory import resident
from memory import settle
from shapes import SEED
from shapes import SHAPES

SETTINGS = {
    "as it is": {},
    "all logits at once": {"loss_chunk_size": math.inf},
    "loss_chunk_size=32": {"loss_chunk_size": 32},
    "half the batch": {"batch_share": 0.5},
    "LoRA student, rank 8": {"lora_rank": 8},
    "int8 teacher": {"quantize": "int8"},
    "mixed_bfloat16": {"dtype": "mixed_bfloat16"},
    "bfloat16": {"dtype": "bfloat16"},
}


def megabytes(variables):
    """The size of variables in MiB, each counted once."""
    unique = {id(v): v for v in variables}.values()
    bits = sum(
        # "bool" is the one name without its number of bits.
        math.prod(v.shape) * int((re.findall(r"\d+", v.dtype) or [8])[0])
        for v in unique
    )
    return bits / 8 / 2**20


def measure(name, shape):
    import keras
    from ours import make_batch
    from ours import make_model

    import keras_skd

    setting = SETTINGS[name]
    keras.utils.set_random_seed(SEED)
    keras.config.set_dtype_policy(setting.get("dtype", "float32"))
    teacher = make_model(shape.teacher, shape.vocabulary_size)
    student = make_model(shape.student, shape.vocabulary_size)
    if "quantize" in setting:
        teacher.quantize(setting["quantize"])
    if "lora_rank" in setting:
        student.backbone.enable_lora(setting["lora_rank"])
    distiller = keras_skd.Distiller(
        teacher, student, stop_token_ids=None, seed=SEED
    )
    batch = make_batch(shape)
    rows = int(setting.get("batch_share", 1.0) * shape.batch_size)
    batch = {key: value[:rows] for key, value in batch.items()}
    chunk_size = setting.get("loss_chunk_size")
    if chunk_size == math.inf:
        chunk_size = batch["token_ids"].size
    distiller.compile(
        optimizer=keras.optimizers.Adam(1e-5), loss_chunk_size=chunk_size
    )
    distiller.fit(batch, batch_size=rows, verbose=0)
    settle()
    before = resident()
    distiller.fit(batch, batch_size=rows, verbose=0)
    peak = resident(peak=True) - before
    held = [
        megabytes(part.variables)
        for part in (teacher, student, distiller.optimizer)
    ]
    cells = [f"{value:,.0f}" for value in (*held, peak / 2**20)]
    print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="smollm2")
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=SETTINGS)
    parser.add_argument("--setting", choices=SETTINGS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.setting:
        measure(args.setting, SHAPES[args.shape])
        return
    print(f"{os.environ['KERAS_BACKEND']}, {SHAPES[args.shape]}\n")
    print("| MiB | teacher | student | optimizer | peak of a step above |")
    print("| --- | ---: | ---: | ---: | ---: |", flush=True)
    # TensorFlow's allocator for oneDNN keeps what it once had.
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"}
    for setting in args.only:
        command = [sys.executable, __file__, "--shape", args.shape]
        subprocess.run(
            [*command, "--setting", setting], check=True, env=environment
        )


if __name__ == "__main__":
    main()
