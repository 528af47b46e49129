"""Measures keras_skd on the trained models of the example.

    KERAS_BACKEND=jax python benchmarks/trained_pair.py

The teacher is SmolLM2-135M-Instruct, the student a third of its layers. Before
anything is measured, the student is distilled for as many steps as in
`examples/distill_smollm2.py`.
"""

import argparse
import pathlib
import sys

import keras
import keras_hub
import numpy as np
from ours import step
from ours import write
from shapes import PADDING_ID
from shapes import SEED
from shapes import SHAPES
from timing import emit_versions
from timing import interleave

import keras_skd

SHAPE = "smollm2"
NUM_STEPS = 16

sys.path.append(str(pathlib.Path(__file__).parent.parent / "examples"))
import smollm2  # noqa: E402


def make_batches(tokenizer, shape, count):
    """Questions to the model, of up to 32 tokens each."""
    batch_size, sequence_length = shape.batch_size, shape.sequence_length
    questions, _ = smollm2.load_questions(count * batch_size, seed=SEED)
    token_ids = np.full((len(questions), sequence_length), PADDING_ID, "int32")
    padding_mask = np.zeros(token_ids.shape, bool)
    for row, question in enumerate(questions):
        prompt = np.array(tokenizer(smollm2.chat(question)))
        prompt = prompt[: shape.prompt_length]
        token_ids[row, : len(prompt)] = prompt
        padding_mask[row, : len(prompt)] = True
    return {"token_ids": token_ids, "padding_mask": padding_mask}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    backend = keras.config.backend()
    emit_versions("keras", "keras-hub", backend, backend=backend)

    shape = SHAPES[SHAPE]
    keras.utils.set_random_seed(SEED)
    teacher = smollm2.load_teacher()
    student = smollm2.make_student(teacher)
    data = make_batches(student.preprocessor.tokenizer, shape, NUM_STEPS + 1)
    # The data is token ids, and no token ends a response.
    student.preprocessor = None
    sampler = keras_hub.samplers.RandomSampler(temperature=0.7)
    distiller = keras_skd.Distiller(
        teacher,
        student,
        rollout=keras_skd.rollouts.Speculative(
            student_sampler=sampler, teacher_sampler=sampler
        ),
        seed=SEED,
    )
    distiller.compile(optimizer=keras.optimizers.Adam(5e-4), loss="forward_kl")
    train = {k: v[shape.batch_size :] for k, v in data.items()}
    distiller.fit(train, batch_size=shape.batch_size, verbose=0)

    # A tiny rate, so that the measured steps hardly change the pair.
    distiller.optimizer.learning_rate = 1e-6
    batch = {k: v[: shape.batch_size] for k, v in data.items()}
    interleave(
        {
            "SKD step, trained pair": step(distiller, batch),
            "SKD rollout, trained pair": write(
                distiller, batch, also=["acceptance_rate"]
            ),
        },
        args.repeats,
        shape=SHAPE,
        backend=backend,
    )


if __name__ == "__main__":
    main()
