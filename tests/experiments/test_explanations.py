"""On JAX alone, as the experiment is."""

import keras
import pytest

from experiments import cells
from experiments import explanations
from experiments import tables


@pytest.mark.slow
@pytest.mark.skipif(
    keras.config.backend() != "jax", reason="the experiment runs on JAX"
)
def test_a_run(monkeypatch, sums):
    monkeypatch.setattr(explanations, "STEPS", (0, 2, 4))
    monkeypatch.setattr(explanations, "METHODS", ("on_policy", "supervised"))
    experiment = explanations.Experiment(sums)
    lines = {
        name: experiment.run(name, seed=0, rate=1e-3)
        for name in explanations.METHODS
    }
    # The data has one response to a prompt; a student draws others each time.
    assert lines["supervised"]["different"] == 1.0
    assert lines["on_policy"]["different"] > 4.0
    for line in lines.values():
        for name in explanations.MEASURES[1:]:
            assert 0 < line[name] < 20


def test_the_table(tmp_path):
    assert tables.explanations(tmp_path) == tables.NO_RUNS
    for seed, value in enumerate([1.0, 2.0]):
        line = {"seed": seed} | dict.fromkeys(explanations.MEASURES, value)
        path = explanations.path(tmp_path, 100, "skd_hot_student")
        cells.append(path, line)
    *_, row = tables.explanations(tmp_path).splitlines()
    label = "SKD, student at temperature 1.5"
    assert row == f"| {label} | 100 |" + " 1.50 |" * 5 + " 2 |"
