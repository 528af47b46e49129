"""One figure for each condition: scores, cost, acceptance and validation KL."""

import pathlib

import matplotlib

matplotlib.use("agg")
# The same file for the same numbers.
matplotlib.rcParams["svg.hashsalt"] = "experiments"

from matplotlib import pyplot as plt  # noqa: E402

from experiments import cells  # noqa: E402

FOLDER = pathlib.Path(__file__).parent / "figures"


def draw(results, condition, folder=FOLDER):
    """Draws the figure of a condition, and returns its path."""
    rows = results.rows(condition)
    task = results.tasks[condition.task]
    figure, axes = plt.subplots(2, 2, figsize=(13, 10), layout="constrained")
    figure.suptitle(
        f"{task.name}, {condition.size:,} prompts, {condition.init} student"
    )
    names = {label: runs for label, (_, runs) in rows.items()}
    _bars(axes[0, 0], names, task.metric)
    _lines(axes[0, 1], names, _cost, "CPU seconds", task.metric)
    _lines(axes[1, 0], names, _acceptance, "steps", "acceptance rate")
    _lines(axes[1, 1], names, _kl, "steps", "validation KL")
    axes[1, 1].legend(fontsize="small")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{'-'.join(map(str, condition))}.svg"
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path


def _bars(axes, rows, metric):
    scores = [runs.score for runs in rows.values()]
    means = [score.mean for score in scores]
    errors = [
        [score.mean - score.low for score in scores],
        [score.high - score.mean for score in scores],
    ]
    axes.barh([*rows], means, xerr=errors, color="C0", alpha=0.6)
    axes.invert_yaxis()
    axes.set_xlabel(f"{metric}, {cells.ALL} steps, 95 % intervals")


def _lines(axes, rows, curve, x_label, y_label):
    markers = "osv^<>DPX*"
    for i, (label, runs) in enumerate(rows.items()):
        found = curve(runs)
        if found is not None:
            style = dict(color=f"C{i % 10}", marker=markers[i // 10])
            axes.plot(*found, label=label, markersize=4, **style)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)


def _cost(runs):
    return runs.curve("cpu_seconds")[1:], runs.curve("test")[1:]


def _acceptance(runs):
    return runs.logged("acceptance_rate")


def _kl(runs):
    return runs.steps, runs.curve("val_kl")
