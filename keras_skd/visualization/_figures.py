"""Figures without `pyplot`, which notebooks can show."""

import importlib

# A palette for colour-blind people, too.
COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")


def new_figure(num_axes: int):
    """A figure with a row of axes.

    Returns:
        `(figure, axes)`, the second a list.

    Raises:
        ImportError: without matplotlib.
    """
    # At the first plot, not at `import keras_skd`.
    try:
        shown = importlib.import_module("keras_skd.visualization._shown_figure")
    except ImportError as error:
        raise ImportError(
            "Plots need matplotlib: `pip install matplotlib`, or "
            '`pip install "keras-skd[plot]"`.'
        ) from error
    figure = shown.ShownFigure(
        figsize=(3.4 * num_axes, 2.8), layout="constrained"
    )
    axes = figure.subplots(1, num_axes, squeeze=False)[0]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.3)
    return figure, list(axes)


def by_run(value, is_one, argument: str, expected: str) -> dict:
    """Returns a dict from the names of runs to what is drawn of each.

    Args:
        value: one run, or a dict from names to runs.
        is_one: callable. Whether a value is one run.
        argument: str. The argument that the value came from, for the error.
        expected: str. The description of a run, for the error.
    """
    if is_one(value):
        return {"": value}
    if isinstance(value, dict) and value and all(map(is_one, value.values())):
        return {str(name): item for name, item in value.items()}
    raise TypeError(
        f"`{argument}` must be {expected}, or a dict from the names of runs to "
        f"such. Received: {value!r:.60} of type {type(value).__name__}"
    )
