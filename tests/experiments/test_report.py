"""Tables and figures from given lines. No model is run."""

import keras
import pytest

from experiments import cells
from experiments import figures
from experiments import report
from experiments.methods import KS
from experiments.report import Report
from experiments.results import Condition
from experiments.results import Results
from experiments.tasks import TASKS

CONDITION = Condition("pronunciation", 1000, "pretrained")
STEPS = [0, *cells.STEPS]


def line(method, rate, seed, errors, development=None):
    """A run with the same number of errors in each of 100 words of 10."""
    percent = 10.0 * errors
    values = [50.0, 40.0, 30.0, percent, percent - 1]
    log = {"step": [48, 96], "student_passes": [7, 7], "teacher_passes": [1, 1]}
    log.update(response_length=[6, 6], acceptance_rate=[0.25, 0.75])
    return {
        **CONDITION._asdict(),
        "method": method,
        "learning_rate": rate,
        "seed": seed,
        "parameters": 1234,
        "steps": STEPS,
        "test": values,
        "development": [50, 40, 30, development or percent, 1],
        "others": [{"word accuracy": 100 - value} for value in values],
        "val_kl": [1.0, 0.5, 0.4, 0.3, 0.2],
        "cpu_seconds": [0, 1, 2, 3.84, 8],
        "all_seconds": 1800,
        "log": log,
        "items": [[errors] * 100, [10] * 100],
    }


@pytest.fixture
def results(tmp_path):
    runs = {
        "skd": [(3e-3, seed, 2) for seed in range(3)],
        "on_policy": [(1e-3, 0, 1, 60), *((3e-3, s, 3) for s in range(3))],
        **{f"skd_{k}": [(3e-3, 0, 4, k)] for k in KS},
    }
    for method, lines in runs.items():
        path = cells.Group(*CONDITION, method).path(tmp_path)
        for arguments in lines:
            cells.append(path, line(method, *arguments))
    return Results(tmp_path, {"pronunciation": TASKS["pronunciation"]})


def test_numbers_in_the_text_are_those_of_the_runs(results):
    text = (
        "{{score pronunciation 1000 pretrained skd}}; "
        "{{difference pronunciation 1000 pretrained on_policy}}; "
        "{{runs}} runs, {{hours}} hours"
    )
    # 1e-3 is better on the test split, 3e-3 on the development split.
    assert Report(results).fill(text) == (
        "20.0 [20.0, 20.0]; +10.0 [+10.0, +10.0]; 13 runs, 6.5 hours"
    )


@pytest.mark.skipif(
    keras.config.backend() != "jax", reason="the same on all backends"
)
def test_the_readme_has_the_numbers_of_the_runs():
    text = (report.HERE / "text.md").read_text()
    filled = Report(Results(cells.RESULTS, TASKS)).fill(text)
    assert (report.HERE / "README.md").read_text() == filled


@pytest.mark.parametrize("words", ["100 pretrained skd", "1000 sft skd"])
def test_a_number_without_a_run_is_an_error(results, words):
    with pytest.raises(ValueError, match="no run"):
        Report(results).fill(f"{{{{score pronunciation {words}}}}}")


def test_an_unknown_placeholder_is_an_error(results):
    with pytest.raises(ValueError, match="must be one of"):
        Report(results).fill("{{scores}}")


def test_the_table_has_a_row_and_a_command_for_each_method(results):
    text = Report(results).fill("{{task pronunciation}}")
    text, ablations = text.split("#### SKD with one thing changed")
    rows = [row.split(" | ") for row in text.splitlines() if "--methods" in row]
    # SKD, another method, and SKD with the chosen K; the best first.
    assert len(rows) == 3
    # SKD and six values of K.
    assert ablations.count("--methods") == 7
    assert rows[0][0] == "| SKD, scaled K" and rows[0][2] == ""
    assert rows[1][:3] == [
        "| on-policy KD",
        "30.0 [30.0, 30.0]",
        "+10.0 [+10.0, +10.0]",
    ]
    assert "3 | 0.003 of 2" in " | ".join(rows[1])
    assert rows[1][-1] == (
        "`python -m experiments.run --tasks pronunciation --sizes 1000 "
        "--inits pretrained --methods on_policy --results again` |"
    )
    assert any("chosen on development: 1" in row[0] for row in rows)
    assert "| SKD, scaled K | 10 | 7.0 | 1.0 | 0.300 | 0.25, 0.75 |" in text


def test_a_figure_is_drawn(results, tmp_path):
    path = figures.draw(results, CONDITION, tmp_path)
    # A line for each method in three of four panels, and their legend.
    assert path.read_text().count('id="line2d_') > 3 * 3
