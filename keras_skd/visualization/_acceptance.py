import numpy as np

from keras_skd._checks import check_integer
from keras_skd._source import Source
from keras_skd.visualization._figures import COLORS
from keras_skd.visualization._figures import by_run
from keras_skd.visualization._figures import new_figure


def plot_acceptance(rollout, positions_per_point: int = 8):
    """Draws the acceptance rate by position in the response.

    Args:
        rollout: dict of arrays of a speculative rollout, as
            `Distiller.generate_rollout` returns it; or a dict from the names
            of runs to these.
        positions_per_point: int. The number of positions that each point
            averages over. Defaults to `8`.

    Returns:
        A `matplotlib.figure.Figure`, which a notebook shows and `savefig`
        saves.

    Raises:
        ImportError: without matplotlib (`pip install "keras-skd[plot]"`).
        TypeError: if `rollout` is neither of the above.
        ValueError: if a rollout has no drafts.

    Example:

    ```python
    before = distiller.generate_rollout({"prompts": prompts})
    distiller.fit({"prompts": prompts})
    after = distiller.generate_rollout({"prompts": prompts})
    keras_skd.visualization.plot_acceptance({"before": before, "after": after})
    ```
    """
    size = check_integer("positions_per_point", positions_per_point, minimum=1)
    runs = by_run(
        rollout, _is_rollout, "rollout", "a dict from `generate_rollout`"
    )
    figure, (ax,) = new_figure(1)
    for i, (name, run) in enumerate(runs.items()):
        rates = acceptance_by_position(run, size)
        centers = size * np.arange(len(rates)) + (size + 1) / 2
        ax.plot(
            centers,
            rates,
            label=name or None,
            color=COLORS[i % len(COLORS)],
            marker="o",
            markersize=3,
        )
    ax.set_ylim(-0.02, 1.02)
    ax.set_title("acceptance_rate")
    ax.set_xlabel("position in the response")
    if any(runs):
        ax.legend(frameon=False)
    return figure


def acceptance_by_position(rollout: dict, size: int):
    """The acceptance rate of each group of `size` positions.

    Returns:
        Float array, NaN where no draft was tested.
    """
    drafts = np.asarray(rollout.get("draft_mask", False))
    if not drafts.any():
        raise ValueError(
            "`rollout` must have tested drafts, as a speculative one does. "
            f"Received the keys: {sorted(rollout)}, and no draft."
        )
    response = np.asarray(rollout["response_mask"])
    positions = (np.cumsum(response, axis=1) - 1)[drafts] // size
    accepted = (np.asarray(rollout["sources"]) == Source.STUDENT)[drafts]
    tested = np.bincount(positions)
    with np.errstate(invalid="ignore"):
        return np.bincount(positions, weights=accepted) / tested


def _is_rollout(value):
    return isinstance(value, dict) and {"sources", "response_mask"} <= {*value}
