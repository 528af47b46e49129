"""Figures, by what is drawn in them."""

import keras
import matplotlib.figure
import numpy as np
import pytest
from IPython.core.formatters import DisplayFormatter

from keras_skd.visualization import plot_acceptance
from keras_skd.visualization import plot_history
from tests.support.distillers import TRAINING
from tests.support.distillers import text_distiller

HISTORY = {
    "loss": [3.0, 2.0, 1.5],
    "val_loss": [3.5, 2.5, 2.0],
    "acceptance_rate": [0.1, 0.2, 0.4],
    "teacher_token_fraction": [0.9, 0.8, 0.6],
    "response_length": [7.0, 8.0, 9.0],
    "val_exact_match": [0.0, 0.5, 1.0],
}


def lines(ax):
    return {
        line.get_label(): (
            line.get_xdata().tolist(),
            line.get_ydata().tolist(),
            line.get_linestyle(),
        )
        for line in ax.lines
    }


def test_curves_of_a_history():
    figure = plot_history(HISTORY)
    assert isinstance(figure, matplotlib.figure.Figure)
    axes = {ax.get_title(): lines(ax) for ax in figure.axes}
    epochs = [1, 2, 3]
    assert axes == {
        "loss": {
            "training": (epochs, HISTORY["loss"], "-"),
            "validation": (epochs, HISTORY["val_loss"], "--"),
        },
        "acceptance_rate": {
            "training": (epochs, HISTORY["acceptance_rate"], "-")
        },
        "teacher_token_fraction": {
            "training": (epochs, HISTORY["teacher_token_fraction"], "-")
        },
        "response_length": {
            "training": (epochs, HISTORY["response_length"], "-")
        },
    }
    # What a notebook shows of it, without `pyplot`.
    data, _ = DisplayFormatter().format(figure)
    assert "image/png" in data


def test_several_runs_share_the_axes(tmp_path):
    other = {"loss": [4.0, 1.0]}
    figure = plot_history(
        {"SKD": HISTORY, "GKD": other}, metrics=["exact_match", "loss"]
    )
    axes = [lines(ax) for ax in figure.axes]
    assert [*axes[0]] == ["SKD validation"]
    assert [*axes[1]] == ["SKD", "SKD validation", "GKD"]
    assert axes[1]["GKD"][:2] == ([1, 2], [4.0, 1.0])
    colors = {
        line.get_label(): line.get_color() for line in figure.axes[1].lines
    }
    assert colors["SKD"] == colors["SKD validation"] != colors["GKD"]
    (legend,) = figure.legends
    assert sorted(text.get_text() for text in legend.get_texts()) == [
        "GKD",
        "SKD",
        "SKD validation",
    ]
    figure.savefig(tmp_path / "history.svg")


def test_seeds_are_a_mean_and_a_band():
    seeds = [{"loss": [4.0, 2.0, 1.0]}, {"loss": [2.0, 1.0]}]
    for given in (seeds, {"SKD": seeds, "GKD": HISTORY}):
        (ax,) = plot_history(given, metrics=["loss"]).axes
        drawn = ax.lines[0]
        # As long as the shortest.
        assert drawn.get_xdata().tolist() == [1, 2]
        assert drawn.get_ydata().tolist() == [3.0, 1.5]
        (band,) = ax.collections
        corners = {tuple(point) for point in band.get_paths()[0].vertices}
        assert corners == {(1.0, 2.0), (1.0, 4.0), (2.0, 1.0), (2.0, 2.0)}


def test_what_fit_returns():
    distiller = text_distiller("on_policy")
    history = distiller.fit(TRAINING, epochs=2, verbose=0)
    assert isinstance(history, keras.callbacks.History)
    for given in (history, {"run": history}):
        figure = plot_history(given)
        titles = [ax.get_title() for ax in figure.axes]
        assert titles == ["loss", "teacher_token_fraction", "response_length"]
        (drawn,) = figure.axes[0].lines
        assert drawn.get_ydata().tolist() == history.history["loss"]


def test_bad_histories():
    for wrong in (3, {}, {"a": 3}, [], [HISTORY, 3]):
        with pytest.raises(TypeError, match="`history`"):
            plot_history(wrong)
    with pytest.raises(ValueError, match="metrics=.'kl'.*'exact_match'"):
        plot_history(HISTORY, metrics=["kl"])


def _rollout(seed):
    rng = np.random.default_rng(seed)
    lengths = [1, 3, 2, 4]
    column = np.arange(24)
    prompt = column < np.array(lengths)[:, None]
    response = ~prompt & (column < np.array([24, 20, 12, 5])[:, None])
    sources = np.where(rng.random(response.shape) < 0.6, 2, 3)
    sources = np.where(response, sources, prompt)
    # As in a mixture: one row has no drafts.
    drafts = response & (np.arange(4) != 2)[:, None]
    return {"sources": sources, "response_mask": response, "draft_mask": drafts}


def test_acceptance_along_the_response():
    runs = {"before": _rollout(0), "after": _rollout(1)}
    (ax,) = plot_acceptance(runs, positions_per_point=5).axes
    for name, rollout in runs.items():
        accepted, tested = np.zeros(5), np.zeros(5)
        for row in range(4):
            responses = np.flatnonzero(rollout["response_mask"][row])
            for i, column in enumerate(responses):
                if rollout["draft_mask"][row, column]:
                    tested[i // 5] += 1
                    accepted[i // 5] += rollout["sources"][row, column] == 2
        x, y, _ = lines(ax)[name]
        assert x == [3, 8, 13, 18, 23]
        np.testing.assert_allclose(y, accepted / tested)
    assert len(plot_acceptance(runs["after"]).axes[0].lines) == 1


def test_a_real_rollout():
    distiller = text_distiller()
    rollout = distiller.generate_rollout(TRAINING)
    (ax,) = plot_acceptance(rollout, positions_per_point=16).axes
    (line,) = ax.lines
    written = rollout["response_mask"]
    by_student = (rollout["sources"] == 2)[written]
    assert line.get_ydata().tolist() == pytest.approx([by_student.mean()])


def test_bad_rollouts():
    with pytest.raises(TypeError, match="`rollout`"):
        plot_acceptance({"token_ids": np.ones((2, 3))})
    rollout = _rollout(0)
    del rollout["draft_mask"]
    with pytest.raises(ValueError, match="must have tested drafts"):
        plot_acceptance(rollout)
    with pytest.raises(ValueError, match="`positions_per_point`"):
        plot_acceptance(_rollout(0), positions_per_point=0)
