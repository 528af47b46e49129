"""Explanations: what text a method trains on, and what its student then knows.

    python -m experiments.explanations

The experiment says which student is best; this asks why, of random students
on pronunciation. Finished runs are lines in `experiments/results/`, and are
not run again. Measured are

* how many of eight responses to a prompt, drawn at the same step, differ: the
  mean over steps of the training;
* after the training, the divergence from the teacher on held-out words: on
  their references, on what the teacher writes, and on what the student writes;
* the same on the references of the words that it was trained on.

Beside the methods, two things are tried: SKD whose student, or whose teacher,
draws at a temperature of 1.5, so that its text differs more.
"""

import argparse
import itertools
import os

from experiments import cells
from experiments.cache import FOLDER

NAME = "explanations"
TASK, INIT = "pronunciation", "random"
SIZES = 100, 1000
SEEDS = 3
STEPS = 0, 48, 96, 192, 384
METHODS = "on_policy", "skd_25", "skd", "teacher_kl", "supervised"
TRIED = "skd_hot_student", "skd_hot_teacher"
NUM_PROMPTS, NUM_RESPONSES = 32, 8
MEASURES = "different", "own", "teachers", "references", "trained"


def path(results, size, method):
    """The file with a line for each seed of a method."""
    return results / NAME / f"{size}-{method}.jsonl"


def methods_of():
    """The methods, by name."""
    from experiments import methods

    hot = "samplers.RandomSampler(temperature=1.5)"
    tried = {
        f"skd_hot_{author}": methods.Method(
            f"SKD, {author} at temperature 1.5",
            "rollouts.Speculative(acceptance.TopK(scaled_k), "
            f"{author}_sampler={hot})",
        )
        for author in ("student", "teacher")
    }
    return {name: methods.METHODS[name] for name in METHODS} | tried


class Experiment:
    """Trains students, and looks at them.

    Args:
        runner: the `Runner` of a task and a number of prompts.
    """

    def __init__(self, runner):
        from experiments import training

        self.runner, self.task = runner, runner.task
        self.prompts = self.task.prompts(runner.size)
        write_as_teacher = training.Writer(runner.teacher)
        self.by_teacher = write_as_teacher(self.task.development)
        self.trained = {}

    def run(self, name, seed, rate=None):
        """Trains a student, and returns the line of this run.

        The learning rate defaults to that which the experiment has chosen.
        """
        from experiments import students
        from experiments import training

        runner, method = self.runner, self._method(name)
        students.initialise(
            runner.student, self.task, runner.scale, INIT, runner.size, seed
        )
        method.restart(rate or learning_rate(name), seed)
        columns = training.batches(
            self.prompts, STEPS[-1], cells.BATCH_SIZE, seed
        )
        different = []
        for first, last in itertools.pairwise(STEPS):
            different.append(self.different(method.distiller))
            method.train(columns, first, last)
        held_out = self.task.development
        prompts = {"prompts": [pair.prompt for pair in held_out]}
        own = runner.write(held_out)
        return {
            "method": name,
            "size": runner.size,
            "seed": seed,
            "different": round(sum(different) / len(different), 3),
            "own": self.kl({**prompts, "responses": own}),
            "teachers": self.kl({**prompts, "responses": self.by_teacher}),
            "references": self.kl(training.as_columns(held_out)),
            "trained": self.kl(training.as_columns(self.prompts)),
        }

    def _method(self, name):
        from experiments.runner import TrainedMethod

        runner = self.runner
        if name not in self.trained:
            self.trained[name] = TrainedMethod(
                methods_of()[name],
                self.task,
                runner.size,
                runner.teacher,
                runner.student,
            )
        return self.trained[name]

    def different(self, distiller):
        """How many of the responses to a prompt differ."""
        from experiments import training

        pairs = self.prompts[:NUM_PROMPTS]
        rows = [pair for pair in pairs for _ in range(NUM_RESPONSES)]
        written = distiller.generate_rollout(
            training.as_columns(rows), batch_size=cells.BATCH_SIZE
        )
        texts = {
            (row // NUM_RESPONSES, *ids[mask].tolist())
            for row, (ids, mask) in enumerate(
                zip(written["token_ids"], written["response_mask"])
            )
        }
        return len(texts) / len(pairs)

    def kl(self, columns):
        scores = self.runner.judge.evaluate(
            columns, batch_size=250, verbose=0, return_dict=True
        )
        return round(scores["kl"], 4)


def learning_rate(name):
    """The rate that the experiment has chosen for the method."""
    from experiments.methods import METHODS as ALL
    from experiments.tasks import TASKS

    name = name if name in ALL else "skd"
    group = cells.rate_group(cells.Group(TASK, 1000, INIT, name), ALL)
    lines = cells.read(group.path(cells.RESULTS))
    rates = cells.LEARNING_RATES[INIT]
    return cells.best_rate(lines, rates, TASKS[TASK].lower_is_better)


def main():
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(FOLDER / "xla"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("KERAS_BACKEND", "jax")
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    args = parser.parse_args()
    for size in args.sizes:
        experiment = None
        for seed, name in itertools.product(
            range(args.seeds), (*METHODS, *TRIED)
        ):
            file = path(cells.RESULTS, size, name)
            if seed in [line["seed"] for line in cells.read(file)]:
                continue
            if experiment is None:
                from experiments.runner import runner

                experiment = Experiment(runner(TASK, "full", size))
            line = experiment.run(name, seed)
            cells.append(file, line)
            print(line, flush=True)


if __name__ == "__main__":
    main()
