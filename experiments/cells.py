"""The cells of the experiment, their order, and the lines of finished runs."""

import json
import os
import pathlib
import typing

RESULTS = pathlib.Path(__file__).parent / "results"
SIZES = 1000, 100
INITS = "pretrained", "random", "sft"
# A random student learns nothing at 1e-2.
LEARNING_RATES = {
    "pretrained": (1e-3, 3e-3, 1e-2),
    "random": (3e-4, 1e-3, 3e-3),
    "sft": (3e-4, 1e-3, 3e-3),
}
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
# The group of the best of all values of K, which is known after their runs.
CHOSEN_K = "skd_chosen"


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


def groups(tasks, methods, sizes=SIZES, inits=INITS, are_named=False):
    """The groups in the order in which they run, the most wanted first.

    Args:
        tasks: list of names.
        methods: dict from names to `Method`s.
        sizes: list of ints.
        inits: list of names.
        are_named: bool. Whether the user named the methods: then each is run
            under every condition and on every task. Otherwise the ablations
            are run under the first one, and the best K of them under the
            others. Defaults to `False`.
    """
    for size, init in CONDITIONS:
        if size not in sizes or init not in inits:
            continue
        is_first = (size, init) == CONDITIONS[0]
        for is_main in (True, False):
            for task in tasks:
                if not (is_main or is_first or are_named):
                    yield Group(task, size, init, CHOSEN_K)
                for name, method in methods.items():
                    is_here = are_named or _is_here(method, task, is_first)
                    if method.is_main == is_main and is_here:
                        yield Group(task, size, init, name)


def _is_here(method, task, is_first):
    """Whether a method is planned for a task, and a condition or the first."""
    is_task = method.only_task in ("", task)
    return is_task and (is_first or not method.is_ablation)


def rate_group(group, methods):
    """The group whose runs decide on the learning rate of a group."""
    method = methods[group.method].rate_of or group.method
    return group._replace(size=CONDITIONS[0][0], method=method)


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


def best_rate(lines, rates, lower_is_better):
    """The learning rate with the best development score of the first seed."""
    at = STEPS.index(ALL) + 1  # After the score of the initial student.
    scores = {
        line["learning_rate"]: line["development"][at]
        for line in lines
        if line["seed"] == 0 and line["learning_rate"] in rates
    }
    sign = 1 if lower_is_better else -1
    return min(scores, key=lambda rate: (sign * scores[rate], rate))


def chosen_k(results, task, ks, lower_is_better):
    """The K with the best development score under the first condition.

    Returns:
        int, or `None` if not all values have been tried.
    """
    at, scores = STEPS.index(ALL) + 1, {}
    for k in ks:
        group = Group(task, *CONDITIONS[0], f"skd_{k}")
        lines = read(group.path(results))
        if not lines:
            return None
        values = [line["development"][at] for line in lines]
        scores[k] = sum(values) / len(values)
    sign = 1 if lower_is_better else -1
    return min(scores, key=lambda k: (sign * scores[k], k))


def search(group, lines, rates):
    """The runs that are missing to choose the learning rate of a group.

    Args:
        group: a `Group`.
        lines: list of dicts, its finished runs.
        rates: list of floats, the learning rates.

    Returns:
        List of `Cell`s.
    """
    done = {(line["learning_rate"], line["seed"]) for line in lines}
    return [Cell(group, rate, 0) for rate in rates if (rate, 0) not in done]


def missing(group, lines, rate, seeds):
    """The runs that are missing of a group at the chosen learning rate."""
    done = {(line["learning_rate"], line["seed"]) for line in lines}
    return [
        Cell(group, rate, seed)
        for seed in range(seeds)
        if (rate, seed) not in done
    ]
