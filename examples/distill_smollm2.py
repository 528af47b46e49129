"""Distil SmolLM2-135M-Instruct into a third of its layers.

A student that keeps 10 of the teacher's 30 layers no longer writes text that
makes sense. Speculative Knowledge Distillation
(https://arxiv.org/abs/2410.11325) trains it on text that the two write
together: the student drafts the tokens, and the teacher replaces those that are
not among its own 25 likeliest.

    KERAS_BACKEND=jax python examples/distill_smollm2.py

needs `pip install "keras-skd[jax,examples]"` and takes a few minutes on two
cores, after a download of 100 MB. "tensorflow" and "torch" do as well.
"""

import argparse
import itertools
import sys
import time

import keras
import keras_hub
import smollm2

import keras_skd
from keras_skd import Source

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--steps", type=int, default=16, help="in 4 epochs")
parser.add_argument("--batch-size", type=int, default=8)
parser.add_argument("--sequence-length", type=int, default=64)
parser.add_argument("--output", default="student", help="where to save it")
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()

keras.utils.set_random_seed(args.seed)
start = time.time()

# The teacher is a KerasHub causal LM, and so is the student, whose layers are
# copies of every third one of the teacher's.
teacher = smollm2.load_teacher()
student = smollm2.make_student(teacher)
print(
    f"Backend: {keras.backend.backend()}\n"
    "Teacher: SmolLM2-135M-Instruct, the 4-bit file dequantised, "
    f"{teacher.count_params() / 1e6:.1f} million parameters\n"
    f"Student: every third of its layers, "
    f"{student.count_params() / 1e6:.1f} million parameters"
)

# Distillation needs questions only: the responses are written during training.
# The held-out validation set has responses by people, so that its loss is
# measured on the same text before and after, without sampling.
num_held_out = 32
questions, answers = smollm2.load_questions(
    num_held_out + args.steps * args.batch_size, seed=args.seed
)
prompts = [smollm2.chat(question) for question in questions]
train = {"prompts": prompts[num_held_out:]}
held_out = {"prompts": prompts[:num_held_out]}
validation = {**held_out, "responses": answers[:num_held_out]}

sampler = keras_hub.samplers.RandomSampler(temperature=0.7)
distiller = keras_skd.Distiller(
    teacher,
    student,
    rollout=keras_skd.rollouts.Speculative(
        acceptance=keras_skd.acceptance.TopK(25),
        student_sampler=sampler,
        teacher_sampler=sampler,
    ),
    sequence_length=args.sequence_length,
    seed=args.seed,
)
distiller.compile(
    optimizer=keras.optimizers.Adam(5e-4),
    loss=keras_skd.losses.ForwardKL(),
)


def show(when):
    """Prints how well the student does on the held-out questions."""
    loss = distiller.evaluate(
        validation, batch_size=args.batch_size, return_dict=True, verbose=0
    )["loss"]
    rollout = distiller.generate_rollout(
        {"prompts": held_out["prompts"][: args.batch_size]}
    )
    # Each token that was rejected became one of the teacher's.
    by_student = (rollout["sources"] == Source.STUDENT).sum()
    by_teacher = (rollout["sources"] == Source.TEACHER).sum()
    acceptance_rate = by_student / (by_student + by_teacher)
    print(
        f"\n{when} [{time.time() - start:.0f} s]\n"
        f"validation loss: {loss:.3f}\n"
        f"acceptance rate: {acceptance_rate:.3f}\n"
        f"a rollout, the teacher's tokens {marked('marked')}:\n"
        f"{questions[0]}\n> {response(rollout, row=0)}\n"
    )
    return loss


def response(rollout, row):
    """The response of one row as text, with the teacher's tokens marked."""
    tokenizer = student.preprocessor.tokenizer
    tokens = zip(rollout["token_ids"][row], rollout["sources"][row])
    text = ""
    for source, run in itertools.groupby(tokens, key=lambda token: token[1]):
        if source in (Source.STUDENT, Source.TEACHER):
            words = tokenizer.detokenize([int(token) for token, _ in run])
            text += marked(words) if source == Source.TEACHER else words
    return text


def marked(text):
    return f"\033[1;35m{text}\033[0m" if sys.stdout.isatty() else f"[{text}]"


loss_before = show("Before training")
# Every question is asked once. The epochs only set how often a line is printed.
distiller.fit(
    train,
    batch_size=args.batch_size,
    epochs=4,
    steps_per_epoch=max(1, args.steps // 4),
    verbose=2,
)
loss_after = show("After training")

# The student is a plain KerasHub causal LM, which does not need keras_skd.
distiller.student.save_to_preset(args.output)
reloaded = keras_hub.models.CausalLM.from_preset(args.output)
reloaded.compile(sampler=sampler)
print(
    f"Validation loss {loss_before:.3f} -> {loss_after:.3f} "
    f"({loss_after / loss_before - 1:+.0%})\n"
    f"The student, saved in {args.output!r} and loaded from there, says:\n"
    + reloaded.generate(prompts[0], max_length=args.sequence_length)
)
