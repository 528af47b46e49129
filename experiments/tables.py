"""Markdown tables of results."""

import itertools

from experiments import cells
from experiments import explanations as _explanations
from experiments import instructions as _instructions
from experiments import intervals
from experiments.methods import METHODS
from experiments.results import REFERENCE
from experiments.results import Condition

COMMAND = (
    "python -m experiments.run --tasks {} --sizes {} --inits {} --methods {}"
    " --results again"
)
NO_RUNS = "There are no runs yet."


def teachers(results):
    """How good the teachers and the undistilled students are."""
    rows = [
        "| task | model | parameters | metric | test |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, task in results.tasks.items():
        facts = results.teacher(name)
        if facts is None:
            continue
        scores = "; ".join(
            f"{metric} {value:.1f}" for metric, value in facts["test"].items()
        )
        rows.append(
            f"| {name} | teacher, {facts['seconds'] / 60:.0f} minutes | "
            f"{facts['parameters']:,} | {task.metric} | {scores} |"
        )
        rows += [
            _undistilled(results, condition)
            for condition in results.conditions(name)
        ]
    return "\n".join(rows) if len(rows) > 2 else NO_RUNS


def _undistilled(results, condition):
    _, runs = next(iter(results.rows(condition).values()))
    task = results.tasks[condition.task]
    scores = [f"{task.metric} {runs.mean('test', 0):.1f}"] + [
        f"{name} {runs.other(name, 0):.1f}"
        for name in runs.lines[0]["others"][0]
    ]
    return (
        f"| {task.name} | student, {condition.init}, {condition.size} prompts |"
        f" {runs.lines[0]['parameters']:,} | {task.metric} |"
        f" {'; '.join(scores)} |"
    )


def scores(results, condition, ablations=False):
    """The scores of all methods under a condition, with intervals."""
    found = results.rows(condition, ablations)
    reference = results.runs(condition, REFERENCE)
    _, first = next(iter(found.values()))
    steps = [step for step in cells.STEPS if step in first.steps]
    others = [*first.lines[0]["others"][0]]
    task = results.tasks[condition.task]
    header = [
        "method",
        f"{task.metric}, {cells.ALL} steps",
        "minus SKD",
        *(f"{step} steps" for step in steps if step != cells.ALL),
        *others,
        "seeds",
        "rate",
        "command",
    ]
    rows = [_row(header), _row(["---"] * len(header))]
    sign = 1 if task.lower_is_better else -1
    for label, (name, runs) in sorted(
        found.items(), key=lambda item: sign * item[1][1].score.mean
    ):
        difference = None
        if reference is not None and name != REFERENCE:
            difference = runs.difference(reference)
        rows.append(
            _row(
                [
                    label,
                    interval(runs.score),
                    "" if difference is None else interval(difference, "+"),
                    *(
                        f"{runs.mean('test', step):.1f}"
                        for step in steps
                        if step != cells.ALL
                    ),
                    *(f"{runs.other(other):.1f}" for other in others),
                    len(runs.lines),
                    f"{runs.rate:g} of {runs.num_rates}",
                    f"`{COMMAND.format(*condition, name)}`",
                ]
            )
        )
    return "\n".join(rows)


def costs(results, condition, ablations=False):
    """What each method costs, and what it saw."""
    found = results.rows(condition, ablations)
    header = [
        "method",
        "CPU ms a step",
        "student passes",
        "teacher passes",
        "validation KL",
        "acceptance, first and last",
        "teacher's share, first and last",
        "response length",
    ]
    rows = [_row(header), _row(["---"] * len(header))]
    for label, (_, runs) in found.items():
        ends = [
            _ends(runs.logged(name))
            for name in ("acceptance_rate", "teacher_token_fraction")
        ]
        means = [
            f"{runs.logged(name)[1].mean():.1f}"
            for name in ("student_passes", "teacher_passes", "response_length")
        ]
        rows.append(
            _row(
                [
                    label,
                    f"{runs.milliseconds:.0f}",
                    *means[:2],
                    f"{runs.mean('val_kl'):.3f}",
                    *ends,
                    means[2],
                ]
            )
        )
    return "\n".join(rows)


def instructions(folder):
    """The students of SmolLM2, before and after their training."""
    header = [
        "method",
        "KL, teacher's answers",
        "KL, people's answers",
        "teacher's log-probability of its text",
        "acceptance as drafter",
        "seconds a step",
        "seeds",
    ]
    rows = [_row(header), _row(["---"] * len(header))]
    for name in _instructions.METHODS:
        lines = cells.read(_instructions.path(folder, name))
        if not lines:
            continue
        if len(rows) == 2:
            start = [lines[0][key][0] for key in _instructions.MEASURES]
            rows.append(
                _row(["*untrained*", *(f"{v:.2f}" for v in start), "", ""])
            )
        ends = [
            intervals.over_seeds([line[key][-1] for line in lines])
            for key in _instructions.MEASURES
        ]
        seconds = sum(line["seconds"][-1] for line in lines) / len(lines)
        steps = lines[0]["steps"][-1] - lines[0]["steps"][-2]
        rows.append(
            _row(
                [
                    METHODS[name].label,
                    *(interval(value, digits=2) for value in ends),
                    f"{seconds / steps:.1f}",
                    len(lines),
                ]
            )
        )
    return "\n".join(rows) if len(rows) > 2 else NO_RUNS


def explanations(folder):
    """What text methods train on, and the divergences of their students."""
    header = [
        "method",
        "prompts",
        "different texts of 8",
        "KL, own text",
        "KL, teacher's text",
        "KL, references",
        "KL, references trained on",
        "seeds",
    ]
    rows = [_row(header), _row(["---"] * len(header))]
    for size, (name, method) in itertools.product(
        _explanations.SIZES, _explanations.methods_of().items()
    ):
        lines = cells.read(_explanations.path(folder, size, name))
        if not lines:
            continue
        means = [
            intervals.over_seeds([line[key] for line in lines]).mean
            for key in _explanations.MEASURES
        ]
        rows.append(
            _row(
                [
                    method.label,
                    size,
                    *(f"{mean:.2f}" for mean in means),
                    len(lines),
                ]
            )
        )
    return "\n".join(rows) if len(rows) > 2 else NO_RUNS


def interval(value, sign="", digits=1):
    """Such as `25.7 [24.9, 26.4]`."""
    mean, low, high = (f"{number:{sign}.{digits}f}" for number in value)
    return f"{mean} [{low}, {high}]"


def _ends(logged):
    return "" if logged is None else f"{logged[1][0]:.2f}, {logged[1][-1]:.2f}"


def _row(values):
    return f"| {' | '.join(map(str, values))} |"


def condition(words):
    """A condition from the words of a placeholder."""
    task, size, init = words
    return Condition(task, int(size), init)
