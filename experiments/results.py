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
        lines: list of dicts, those at this rate. Not empty.
        rate: float, the chosen learning rate.
        num_rates: int, how many it was chosen from.

    Attributes:
        by_seed: dict from seeds to lines.
    """

    def __init__(self, lines, rate, num_rates):
        self.rate, self.num_rates = rate, num_rates
        self.by_seed = {
            line["seed"]: line
            for line in sorted(lines, key=lambda line: line["seed"])
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
        """Of CPU time, in a training step: load beside it does not count."""
        at = self.index()
        seconds = [line["cpu_seconds"][at] for line in self.lines]
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
        group = cells.Group(*condition, method)
        decides = cells.rate_group(group, METHODS)
        tried = cells.read(decides.path(self.folder))
        rates = {line["learning_rate"] for line in tried if line["seed"] == 0}
        if not rates:
            return None
        rate = cells.best_rate(tried, rates, self._lower(condition.task))
        lines = cells.read(group.path(self.folder))
        lines = [line for line in lines if line["learning_rate"] == rate]
        return Runs(lines, rate, len(rates)) if lines else None

    def _lower(self, task):
        return self.tasks[task].lower_is_better

    def rows(self, condition, ablations=False):
        """A dict from labels to pairs of a method's name and its `Runs`.

        Args:
            condition: a `Condition`.
            ablations: bool. Whether of SKD and what was changed in it, or of
                the methods.
        """
        names = [n for n in METHODS if METHODS[n].is_ablation == ablations]
        names = [REFERENCE] * ablations + names
        found = {name: self.runs(condition, name) for name in names}
        rows = {
            METHODS[name].label: (name, runs)
            for name, runs in found.items()
            if runs is not None
        }
        if ablations:
            return rows if rows.keys() - {METHODS[REFERENCE].label} else {}
        chosen = cells.chosen_k(
            self.folder, condition.task, KS, self._lower(condition.task)
        )
        if chosen is not None:
            name = f"skd_{chosen}"
            runs = self.runs(condition, name)
            if runs is not None:
                rows[f"SKD, K chosen on development: {chosen}"] = name, runs
        return rows

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
