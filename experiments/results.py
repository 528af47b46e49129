"""The finished runs, read from their lines."""

import json
import typing

import numpy as np

from experiments import cells
from experiments import intervals
from experiments.methods import KS
from experiments.methods import METHODS

# What differences are taken to.
REFERENCE = "skd"


class Condition(typing.NamedTuple):
    """What one table is about."""

    task: str
    size: int
    init: str


class Runs:
    """The runs of one method under one condition, at the chosen rate.

    Args:
        lines: list of dicts, not empty.
        lower_is_better: bool, of the metric.

    Attributes:
        rate: float, the chosen learning rate.
        num_rates: int, how many it was chosen from.
        by_seed: dict from seeds to lines, of this rate.
    """

    def __init__(self, lines, lower_is_better):
        self.rate = cells.best_rate(lines, lower_is_better)
        first = [line for line in lines if line["seed"] == 0]
        self.num_rates = len({line["learning_rate"] for line in first})
        self.by_seed = {
            line["seed"]: line
            for line in sorted(lines, key=lambda line: line["seed"])
            if line["learning_rate"] == self.rate
        }
        self.lines = [*self.by_seed.values()]

    @property
    def steps(self):
        return self.lines[0]["steps"]

    def index(self, step=cells.ALL):
        return self.steps.index(step)

    @property
    def score(self):
        """The interval of the test score, over seeds and items."""
        return intervals.of_mean(*self._items(self.by_seed))

    def difference(self, other):
        """The interval of the difference to other runs with the same seeds."""
        seeds = [seed for seed in self.by_seed if seed in other.by_seed]
        if not seeds:
            return None
        numerators, denominators = self._items(seeds)
        others, _ = other._items(seeds)
        return intervals.of_difference(numerators, others, denominators)

    def _items(self, seeds):
        items = [self.by_seed[seed]["items"] for seed in seeds]
        return np.array(items).transpose(1, 0, 2)

    def mean(self, name, step=cells.ALL):
        """The mean over seeds of a value of the scored steps."""
        at = self.index(step)
        return float(np.mean([line[name][at] for line in self.lines]))

    def curve(self, name):
        """The means over seeds at the scored steps."""
        return np.mean([line[name] for line in self.lines], axis=0)

    def other(self, name, step=cells.ALL):
        """The mean over seeds of a further metric of the task."""
        at = self.index(step)
        values = [line["others"][at][name] for line in self.lines]
        return float(np.mean(values))

    def logged(self, name):
        """Steps, and the means over seeds of a metric of rollouts."""
        log = self.lines[0]["log"]
        if name not in log:
            return None
        values = [line["log"][name] for line in self.lines]
        return log["step"], np.mean(values, axis=0)

    @property
    def milliseconds(self):
        """Of a training step."""
        at = self.index()
        seconds = [line["seconds"][at] for line in self.lines]
        return 1000 * float(np.mean(seconds)) / self.steps[at]


class Results:
    """All runs of a folder.

    Args:
        folder: a path.
        tasks: dict from names to `Task`s.
    """

    def __init__(self, folder, tasks):
        self.folder, self.tasks = folder, tasks

    def runs(self, condition, method):
        """The `Runs` of a method, or `None`."""
        lines = cells.read(cells.Group(*condition, method).path(self.folder))
        # Nothing is chosen before there is a run of the first seed.
        if not any(line["seed"] == 0 for line in lines):
            return None
        return Runs(lines, self.tasks[condition.task].lower_is_better)

    def rows(self, condition):
        """A dict from labels to pairs of a method's name and its `Runs`."""
        rows = {}
        for name, method in METHODS.items():
            runs = self.runs(condition, name)
            if runs is not None:
                rows[method.label] = name, runs
        chosen = self.chosen_k(condition)
        if chosen is not None:
            name = f"skd_{chosen}"
            label = f"SKD, K chosen on development: {chosen}"
            rows[label] = name, self.runs(condition, name)
        return rows

    def chosen_k(self, condition):
        """The K with the best development score, if all have been run."""
        scores = {}
        for k in KS:
            runs = self.runs(condition, f"skd_{k}")
            if runs is None:
                return None
            scores[k] = runs.mean("development")
        sign = 1 if self.tasks[condition.task].lower_is_better else -1
        return min(scores, key=lambda k: sign * scores[k])

    def teacher(self, task):
        """What is known about a teacher, or `None`."""
        path = self.folder / task / "teacher.json"
        return json.loads(path.read_text()) if path.exists() else None

    def conditions(self, task):
        """The conditions of a task with at least one run."""
        for size, init in cells.CONDITIONS:
            condition = Condition(task, size, init)
            if self.rows(condition):
                yield condition
