"""Distil SmolLM2-135M-Instruct in several processes, with PyTorch.

Each process holds both models, and has its own rows of every batch.

    torchrun --nproc-per-node 2 examples/distributed/distill_torch.py

Needs `pip install "keras-skd[torch,examples]"`, takes a few minutes on two
cores and downloads 100 MB, once. The data are those of `distill_smollm2.py`.
"""

import argparse
import os
import pathlib
import sys

os.environ["KERAS_BACKEND"] = "torch"
sys.path.append(str(pathlib.Path(__file__).parents[1]))

import keras
import smollm2
import torch

import keras_skd

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--steps", type=int, default=4)
parser.add_argument(
    "--batch-size", type=int, default=4, help="of all processes"
)
parser.add_argument("--sequence-length", type=int, default=48)
parser.add_argument("--output", default="student", help="where to save it")
args = parser.parse_args()

# `fit` would do so, too. Here, one process downloads what the others read.
torch.distributed.init_process_group()
is_first = torch.distributed.get_rank() == 0
if is_first:
    smollm2.load_teacher()
    smollm2.load_questions(1)
torch.distributed.barrier()

keras.utils.set_random_seed(0)
teacher = smollm2.load_teacher()
student = smollm2.make_student(teacher, keep_every=6)
questions, answers = smollm2.load_questions(
    args.batch_size * (args.steps + 1), seed=0
)
prompts = [smollm2.chat(question) for question in questions]
validation = {
    "prompts": prompts[: args.batch_size],
    "responses": answers[: args.batch_size],
}

# From here on, everything is as in one process.
distiller = keras_skd.Distiller(
    teacher,
    student,
    keras_skd.rollouts.Speculative(num_speculative_tokens=4),
    sequence_length=args.sequence_length,
    seed=0,
)
distiller.compile(keras.optimizers.Adam(5e-4), loss="forward_kl")
before = distiller.evaluate(validation, return_dict=True, verbose=0)["loss"]
distiller.fit(
    {"prompts": prompts[args.batch_size :]},
    batch_size=args.batch_size,
    verbose=2,
)
after = distiller.evaluate(validation, return_dict=True, verbose=0)["loss"]

# Every process gets here: one of them prints and saves.
if is_first:
    print(
        f"{torch.distributed.get_world_size()} processes: validation loss "
        f"{before:.3f} -> {after:.3f}"
    )
    distiller.student.save_to_preset(args.output)
    print(f"The student is saved in {args.output!r}.")
torch.distributed.destroy_process_group()
