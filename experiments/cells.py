"""The cells of the experiment, their order, and the lines of finished runs."""

import json
import os
import pathlib
import typing

RESULTS = pathlib.Path(__file__).parent / "results"
SIZES = 1000, 100
INITS = "pretrained", "random", "sft"
LEARNING_RATES = 1e-3, 3e-3, 1e-2
# In the order in which they run.
CONDITIONS = [
    (1000, "pretrained"),
    (100, "pretrained"),
    (1000, "random"),
    (1000, "sft"),
    (100, "random"),
    (100, "sft"),
]
BATCH_SIZE = 32
# A quarter, half, all and twice the steps. Schedules end at `ALL`.
STEPS = 96, 192, 384, 768
ALL = 384


class Group(typing.NamedTuple):
    """A cell of a table: the runs of a method under one condition."""

    task: str
    size: int
    init: str
    method: str

    def path(self, results):
        """The file with one line for each finished run."""
        name = f"{self.size}-{self.init}-{self.method}.jsonl"
        return pathlib.Path(results) / self.task / name


class Cell(typing.NamedTuple):
    """One run."""

    group: Group
    learning_rate: float
    seed: int


def num_seeds(size, init):
    return 5 if (size, init) == CONDITIONS[0] else 3


def groups(tasks, methods, sizes=SIZES, inits=INITS):
    """The groups in the order in which they run, the most wanted first.

    Args:
        tasks: list of names.
        methods: dict from names to `Method`s.
        sizes: list of ints.
        inits: list of names.
    """
    for size, init in CONDITIONS:
        if size not in sizes or init not in inits:
            continue
        for is_main in (True, False):
            for task in tasks:
                for name, method in methods.items():
                    if method.is_main == is_main:
                        yield Group(task, size, init, name)


def read(path) -> list:
    """The lines of a file, without one that was cut off."""
    lines = []
    if path.exists():
        for text in path.read_text().splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                continue  # The process was killed while it wrote this line.
    return lines


def append(path, line):
    """Adds a line to a file, on a line of its own even after a cut one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    is_cut = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
    with path.open("a") as file:
        file.write("\n" * is_cut + json.dumps(line) + "\n")


def write_whole(path, text):
    """Writes a file that other processes may write or read meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{os.getpid()}-{path.name}")
    unfinished.write_text(text + "\n")
    os.replace(unfinished, path)


def best_rate(lines, lower_is_better):
    """The learning rate with the best development score of the first seed."""
    at = STEPS.index(ALL) + 1  # After the score of the initial student.
    scores = {
        line["learning_rate"]: line["development"][at]
        for line in lines
        if line["seed"] == 0
    }
    sign = 1 if lower_is_better else -1
    return min(scores, key=lambda rate: (sign * scores[rate], rate))


def missing(group, lines, rates, seeds, lower_is_better):
    """The next runs of a group: the search for a rate, then the other seeds.

    Args:
        group: a `Group`.
        lines: list of dicts, the finished runs.
        rates: list of floats, the learning rates.
        seeds: int, the number of seeds.
        lower_is_better: bool, of the metric.

    Returns:
        List of `Cell`s. Empty if the group is complete.
    """
    done = {(line["learning_rate"], line["seed"]) for line in lines}
    search = [Cell(group, rate, 0) for rate in rates if (rate, 0) not in done]
    if search:
        return search
    of_rates = [line for line in lines if line["learning_rate"] in rates]
    rate = best_rate(of_rates, lower_is_better)
    return [
        Cell(group, rate, seed)
        for seed in range(seeds)
        if (rate, seed) not in done
    ]
