"""Trains and scores the students of one task and size, in one process."""

import functools
import time

import keras
import numpy as np

import keras_skd
from experiments import cells
from experiments import cost
from experiments import methods
from experiments import models
from experiments import students
from experiments import teachers
from experiments import training
from experiments.tasks import TASKS

# How often the metrics of rollouts are written down.
LOG_EVERY = 48
LOGGED = "loss", "acceptance_rate", "teacher_token_fraction", "response_length"


# One at a time: its compiled programs take memory.
@functools.lru_cache(maxsize=1)
def runner(task, scale, size):
    """The runner of this process for a task and a size."""
    return Runner(TASKS[task], scale, size)


class Runner:
    """Runs cells that differ in method, start, learning rate and seed.

    All use the same two models, so that what scores a student is compiled once,
    and what trains it once for each method.

    Args:
        task: a `Task`.
        scale: `"full"` or `"small"`.
        size: int, the number of prompts.
    """

    def __init__(self, task, scale, size):
        self.task, self.scale, self.size = task, scale, size
        self.teacher = teachers.load(task, scale)
        tokenizer = self.teacher.preprocessor.tokenizer
        self.student = models.make(task, "student", scale, tokenizer, seed=0)
        self.write = training.Writer(self.student)
        self.judge = keras_skd.Distiller(self.teacher, self.student, seed=0)
        self.judge.compile(loss="forward_kl")
        self._methods: dict[str, TrainedMethod] = {}

    def run(self, cell, steps=cells.STEPS):
        """Trains a student.

        Args:
            cell: a `Cell`.
            steps: tuple of ints, where the student is scored.

        Returns:
            dict, the line of this run.
        """
        method = self._method(cell.group.method)
        students.initialise(
            self.student,
            self.task,
            self.scale,
            cell.group.init,
            self.size,
            cell.seed,
        )
        method.restart(cell.learning_rate, cell.seed)
        columns = training.batches(
            self.task.prompts(self.size), steps[-1], cells.BATCH_SIZE, cell.seed
        )
        line = {
            **cell.group._asdict(),
            "scale": self.scale,
            "learning_rate": cell.learning_rate,
            "seed": cell.seed,
            "parameters": self.student.count_params(),
            "steps": [0, *steps],
            "compile_seconds": method.compile_seconds,
        }
        points = [self._score()]
        log, seconds, cpu_seconds = [], [0.0], [0.0]
        for first, last in zip([0, *steps], steps):
            start, cpu_start = time.perf_counter(), time.process_time()
            for step in range(first, last, LOG_EVERY):
                to = min(step + LOG_EVERY, last)
                log.append(method.train(columns, step, to))
            seconds.append(seconds[-1] + time.perf_counter() - start)
            cpu = time.process_time() - cpu_start
            cpu_seconds.append(cpu_seconds[-1] + cpu)
            points.append(self._score(with_items=last == cells.ALL))
        line["seconds"] = [round(value, 2) for value in seconds]
        line["cpu_seconds"] = [round(value, 2) for value in cpu_seconds]
        line["log"] = _transpose(log)
        line.update(_transpose(points))
        items = line.pop("items", [None])
        line["items"] = next((each for each in items if each), None)
        return line

    def _method(self, name):
        if name not in self._methods:
            self._methods[name] = TrainedMethod(
                methods.METHODS[name],
                self.task,
                self.size,
                self.teacher,
                self.student,
            )
        return self._methods[name]

    def _score(self, with_items=False):
        """The scores of the student as it is."""
        task = self.task
        outputs = self.write([*task.development, *task.test])
        at = len(task.development)
        development = task.score(task.development, outputs[:at])
        test = task.score(task.test, outputs[at:])
        judged = self.judge.evaluate(
            training.as_columns(task.development),
            batch_size=250,
            verbose=0,
            return_dict=True,
        )
        scores = {
            "development": round(development.percent, 3),
            "test": round(test.percent, 3),
            "others": {k: round(v, 2) for k, v in test.others.items()},
            "val_kl": round(judged["kl"], 5),
            "items": None,
        }
        if with_items:
            scores["items"] = [test.numerators, test.denominators]
        return scores


class TrainedMethod:
    """A compiled method, which can start again from any student."""

    def __init__(self, method, task, size, teacher, student):
        rollout, self.loss = methods.arguments(
            method,
            task.scaled_k,
            cells.ALL,
            max(1, size // cells.BATCH_SIZE),
        )
        self.distiller = keras_skd.Distiller(teacher, student, rollout)
        self.optimizer = keras.optimizers.Adam(global_clipnorm=1.0)
        metrics = ["tokens_per_teacher_pass"] * rollout.is_speculative
        self.distiller.compile(
            self.optimizer, self.loss, rollout_metrics=metrics
        )
        # The rollout's estimate of the acceptance rate is one of them.
        models = {id(v) for m in (teacher, student) for v in m.variables}
        states = [v for v in self.distiller.variables if id(v) not in models]
        self._states = [(v, np.array(v)) for v in states]
        # Compiled before the clock runs.
        start = time.perf_counter()
        self._fit(training.as_columns(task.train[: cells.BATCH_SIZE]))
        self.compile_seconds = round(time.perf_counter() - start, 1)

    def restart(self, learning_rate, seed):
        """Forgets all of an earlier run but the student's weights."""
        for variable in self.optimizer.variables:
            variable.assign(keras.ops.zeros(variable.shape, variable.dtype))
        for variable, value in self._states:
            variable.assign(value)
        self.optimizer.learning_rate = learning_rate
        self.distiller.rollout.set_seed(seed)

    def train(self, columns, first, last):
        """Trains on some batches of the columns, and returns the logs."""
        rows = slice(first * cells.BATCH_SIZE, last * cells.BATCH_SIZE)
        logs = self._fit({name: c[rows] for name, c in columns.items()})
        passes = cost.passes(self.distiller.rollout, self.loss, logs, first)
        return {
            "step": last,
            **{k: round(logs[k], 4) for k in LOGGED if k in logs},
            "student_passes": round(passes.student, 2),
            "teacher_passes": round(passes.teacher, 2),
        }

    def _fit(self, columns):
        history = self.distiller.fit(
            columns, batch_size=cells.BATCH_SIZE, shuffle=False, verbose=0
        )
        return {name: values[0] for name, values in history.history.items()}


def _transpose(rows):
    """A dict of lists from a list of dicts with the same keys."""
    return {name: [row[name] for row in rows] for name in rows[0]}
