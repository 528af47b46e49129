import keras
import numpy as np

from keras_skd.visualization._figures import COLORS
from keras_skd.visualization._figures import by_run
from keras_skd.visualization._figures import new_figure

# The metrics of `Distiller.fit`.
_METRICS = (
    "loss",
    "acceptance_rate",
    "teacher_token_fraction",
    "response_length",
)


def plot_history(history, metrics: list[str] | None = None):
    """Draws the history of `fit`: a curve for each metric over the epochs.

    Values on validation data are dashed. Several runs share the axes.

    Args:
        history: the `keras.callbacks.History` that `Distiller.fit` returns, or
            the dict in its `history`; or a list of these, such as of several
            seeds, whose mean is drawn with a band from the lowest to the
            highest, up to the last epoch of the shortest; or a dict from the
            names of runs to any of these.
        metrics: list of names, such as `["loss", "rouge_l_f1_score"]`, without
            `"val_"`. Defaults to `None`: `"loss"`, `"acceptance_rate"`,
            `"teacher_token_fraction"` and `"response_length"`, if the history
            has them.

    Returns:
        A `matplotlib.figure.Figure`, which a notebook shows and `savefig`
        saves.

    Raises:
        ImportError: without matplotlib (`pip install "keras-skd[plot]"`).
        TypeError: if `history` is none of the above.
        ValueError: if no history has a metric of these names.

    Example:

    ```python
    short = distiller.fit({"prompts": prompts}, epochs=2)
    figure = keras_skd.visualization.plot_history(short)
    figure.savefig("history.png")
    more = distiller.fit({"prompts": prompts}, epochs=3)
    keras_skd.visualization.plot_history({"first": short, "second": more})
    keras_skd.visualization.plot_history({"mean of both": [short, more]})
    ```
    """
    runs = by_run(
        history,
        _is_run,
        "history",
        "a `keras.callbacks.History`, a dict or a list of such",
    )
    runs = {name: _dicts(run) for name, run in runs.items()}
    known = {
        key.removeprefix("val_")
        for run in runs.values()
        for one in run
        for key in one
    }
    wanted = _METRICS if metrics is None else metrics
    shown = [name for name in wanted if name in known]
    if not shown or (metrics is not None and len(shown) < len(metrics)):
        raise ValueError(
            "`metrics` must be names of what the history has, without "
            f"'val_'. Received: metrics={metrics}, and a history of "
            f"{sorted(known)}"
        )
    figure, axes = new_figure(len(shown))
    for ax, metric in zip(axes, shown):
        for i, (name, run) in enumerate(runs.items()):
            color = COLORS[i % len(COLORS)]
            _draw(ax, run, metric, name or "training", "-", color)
            validation = f"{name} validation".strip()
            _draw(ax, run, f"val_{metric}", validation, "--", color)
        ax.set_title(metric)
        ax.set_xlabel("epoch")
        ax.xaxis.get_major_locator().set_params(integer=True)
        if not any(runs) and len(ax.lines) > 1:
            ax.legend(frameon=False)
    if any(runs):
        # Beside the axes: within them, it would hide curves of many runs.
        lines = {x.get_label(): x for ax in figure.axes for x in ax.lines}
        figure.set_figwidth(figure.get_figwidth() + 2)
        figure.legend(
            handles=[*lines.values()], loc="outside right upper", frameon=False
        )
    return figure


def _draw(ax, run, key, label, style, color):
    curves = [one[key] for one in run if len(one.get(key, ()))]
    if not curves:
        return
    length = min(map(len, curves))
    curves = np.array([curve[:length] for curve in curves])
    epochs = np.arange(1, length + 1)
    marker = "o" if length == 1 else None
    ax.plot(
        epochs, curves.mean(0), style, label=label, color=color, marker=marker
    )
    if len(curves) > 1:
        ax.fill_between(
            epochs, curves.min(0), curves.max(0), color=color, alpha=0.2, lw=0
        )


def _dicts(run) -> list:
    histories = run if isinstance(run, (list, tuple)) else [run]
    return [getattr(history, "history", history) for history in histories]


def _is_run(value):
    if isinstance(value, (list, tuple)):
        return bool(value) and all(map(_is_history, value))
    return _is_history(value)


def _is_history(value):
    if isinstance(value, keras.callbacks.History):
        return True
    return isinstance(value, dict) and any(
        isinstance(values, (list, tuple)) and not any(map(_is_history, values))
        for values in value.values()
    )
