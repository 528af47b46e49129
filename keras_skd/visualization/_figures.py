"""Figures that any notebook shows, made without `pyplot`."""

import io

try:
    from matplotlib.figure import Figure
except ImportError:
    Figure = None

# Told apart by people who see few colours, too.
COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")


def new_figure(num_axes: int):
    """A figure with a row of axes.

    Returns:
        `(figure, axes)`, the second a list.

    Raises:
        ImportError: without matplotlib.
    """
    if Figure is None:
        raise ImportError(
            "Plots need matplotlib: `pip install matplotlib`, or "
            '`pip install "keras-skd[plot]"`.'
        )
    figure = _Shown(figsize=(3.4 * num_axes, 2.8), layout="constrained")
    axes = figure.subplots(1, num_axes, squeeze=False)[0]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.3)
    return figure, list(axes)


if Figure is not None:

    class _Shown(Figure):
        """A `matplotlib.figure.Figure`.

        A notebook shows one that `pyplot` does not know only if it has this
        method.
        """

        def _repr_png_(self):
            data = io.BytesIO()
            self.savefig(data, format="png", dpi=120)
            return data.getvalue()


def by_run(value, is_one, argument: str) -> dict:
    """One thing to draw, or a dict of several by the names of runs.

    Args:
        value: what was received.
        is_one: callable. Whether something is one thing to draw.
        argument: str. The argument that it came from, for the error.
    """
    if is_one(value):
        return {"": value}
    if isinstance(value, dict) and value and all(map(is_one, value.values())):
        return {str(name): item for name, item in value.items()}
    raise TypeError(
        f"`{argument}` must be what the docstring says, or a dict of several "
        f"from the names of runs. Received: {value!r:.60} of type "
        f"{type(value).__name__}"
    )
