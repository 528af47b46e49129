"""Instructions: SmolLM2-135M-Instruct to a third of its layers, on questions.

    python -m experiments.instructions --methods skd_25 on_policy --seeds 2

A real model, and slow: fewer methods, seeds and steps than on the other tasks,
and one learning rate. Finished runs are lines in `experiments/results/`, and
are not run again. Measured on held-out questions are

* the divergence from the teacher on answers by people, and on its own greedy
  answers, in nats per token;
* the mean log-probability that the teacher gives to tokens which the student
  writes, drawn at temperature 1;
* how many of its drafts the teacher accepts where it is the drafter of lossless
  speculative decoding.
"""

import argparse
import itertools
import os
import pathlib
import sys
import time

from experiments import cells
from experiments.cache import FOLDER

NAME = "instructions"
METHODS = "skd_25", "on_policy", "supervised", "teacher_kl", "imitkd", "sft"
SEEDS = 2
STEPS = 0, 32, 64, 128
BATCH_SIZE = 8
LEARNING_RATE = 5e-4
SEQUENCE_LENGTH = 64
NUM_HELD_OUT = 64
MEASURES = "kl_teacher", "kl_people", "log_probability", "acceptance_rate"


def path(results, method):
    """The file with a line for each seed of a method."""
    return results / NAME / f"{method}.jsonl"


class Experiment:
    """The teacher, the questions, and what is measured."""

    def __init__(self):
        import smollm2

        from experiments import training
        from experiments.tasks.task import Pair

        self.teacher = smollm2.load_teacher()
        questions, answers = smollm2.load_questions(
            NUM_HELD_OUT + STEPS[-1] * BATCH_SIZE
        )
        pairs = [
            Pair(smollm2.chat(question), answer)
            for question, answer in zip(questions, answers)
        ]
        held_out = pairs[:NUM_HELD_OUT]
        self.train = training.as_columns(pairs[NUM_HELD_OUT:])
        self.by_people = training.as_columns(held_out)
        write = training.Writer(self.teacher, BATCH_SIZE, SEQUENCE_LENGTH)
        self.by_teacher = {**self.by_people, "responses": write(held_out)}

    def run(self, name, seed):
        """Trains a student, and returns the line of this run."""
        import keras
        import smollm2

        from experiments import methods

        keras.utils.set_random_seed(seed)
        student = smollm2.make_student(self.teacher)
        student.trainable = True  # Its teacher may have been frozen before.
        rollout, loss = methods.arguments(
            methods.METHODS[name], 25, STEPS[-1], STEPS[-1]
        )
        distiller = self._distiller(student, rollout, seed)
        distiller.compile(keras.optimizers.Adam(LEARNING_RATE), loss)
        judge = self._distiller(student, "on_policy", seed)
        judge.compile(loss="forward_kl")
        points, seconds = [self.measure(judge)], [0.0]
        for first, last in itertools.pairwise(STEPS):
            rows = slice(first * BATCH_SIZE, last * BATCH_SIZE)
            start = time.perf_counter()
            distiller.fit(
                {key: values[rows] for key, values in self.train.items()},
                batch_size=BATCH_SIZE,
                shuffle=False,
                verbose=0,
            )
            seconds.append(round(time.perf_counter() - start, 1))
            points.append(self.measure(judge))
        return {
            "method": name,
            "seed": seed,
            "learning_rate": LEARNING_RATE,
            "steps": STEPS,
            "seconds": seconds,
            **{key: [point[key] for point in points] for key in points[0]},
        }

    def _distiller(self, student, rollout, seed):
        import keras_skd

        return keras_skd.Distiller(
            self.teacher,
            student,
            rollout,
            sequence_length=SEQUENCE_LENGTH,
            seed=seed,
        )

    def measure(self, judge):
        """The four measures of the student as it is."""
        import numpy as np

        on_people = judge.evaluate(self.by_people, verbose=0, return_dict=True)
        scores = judge.score(self.by_teacher)
        written = judge.generate_rollout(
            self.by_people["prompts"], return_teacher_scores=True
        )
        probabilities = written["teacher_probabilities"]
        smallest = np.finfo("float32").tiny
        logarithms = np.log(np.maximum(probabilities, smallest))
        values = (
            scores["kl"],
            on_people["kl"],
            logarithms[written["response_mask"]].mean(),
            scores["acceptance_rate"],
        )
        return {k: round(float(v), 4) for k, v in zip(MEASURES, values)}


def main():
    # For `smollm2`.
    sys.path.append(str(pathlib.Path(__file__).parents[1] / "examples"))
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(FOLDER / "xla"))
    os.environ.setdefault("KERAS_BACKEND", "jax")
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    args = parser.parse_args()
    experiment = None
    for seed in range(args.seeds):
        for method in args.methods:
            file = path(cells.RESULTS, method)
            if seed in [line["seed"] for line in cells.read(file)]:
                continue
            experiment = experiment or Experiment()
            line = experiment.run(method, seed)
            cells.append(file, line)
            print(line, flush=True)


if __name__ == "__main__":
    main()
