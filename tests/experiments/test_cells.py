"""Which runs are next. No model is run."""

import json

import pytest

from experiments import cells
from experiments import run

GROUP = cells.Group("pronunciation", 1000, "pretrained", "skd")
RATES = [1e-3, 3e-3]
AT = cells.STEPS.index(cells.ALL) + 1


def line(rate, seed, development):
    curve = [100.0] * (len(cells.STEPS) + 1)
    curve[AT] = development
    return {"learning_rate": rate, "seed": seed, "development": curve}


def missing(lines, seeds=3, lower_is_better=True):
    found = cells.missing(GROUP, lines, RATES, seeds, lower_is_better)
    return [(cell.learning_rate, cell.seed) for cell in found]


def test_the_learning_rate_comes_first():
    assert missing([]) == [(1e-3, 0), (3e-3, 0)]
    assert missing([line(1e-3, 0, 20.0)]) == [(3e-3, 0)]


@pytest.mark.parametrize("lower, rate", [(True, 3e-3), (False, 1e-3)])
def test_the_other_seeds_use_the_best_rate(lower, rate):
    lines = [line(1e-3, 0, 20.0), line(3e-3, 0, 10.0)]
    assert missing(lines, lower_is_better=lower) == [(rate, 1), (rate, 2)]


def test_what_has_a_line_is_not_run_again():
    lines = [line(1e-3, 0, 20.0), line(3e-3, 0, 10.0), line(3e-3, 2, 11.0)]
    assert missing(lines) == [(3e-3, 1)]
    assert missing([*lines, line(3e-3, 1, 9.0)]) == []


def test_a_rate_outside_of_the_search_is_not_chosen():
    lines = [line(1e-3, 0, 20.0), line(3e-3, 0, 10.0), line(1.0, 0, 1.0)]
    assert missing(lines, seeds=2) == [(3e-3, 1)]


def test_a_killed_process_leaves_the_lines_before(tmp_path):
    path = GROUP.path(tmp_path)
    assert cells.read(path) == []
    cells.append(path, line(1e-3, 0, 20.0))
    with path.open("a") as file:
        file.write(json.dumps(line(3e-3, 0, 10.0))[:20])
    assert missing(cells.read(path)) == [(3e-3, 0)]
    cells.append(path, line(3e-3, 0, 10.0))
    assert missing(cells.read(path)) == [(3e-3, 1), (3e-3, 2)]


def test_the_most_wanted_groups_come_first():
    groups = [group for group, _ in run.plan(run.parse_args([]))]
    assert len(groups) == len(set(groups)) > 300
    first = [(g.size, g.init, g.method) for g in groups[:4]]
    assert first == [
        (1000, "pretrained", method)
        for method in ("skd", "supervised", "on_policy", "imitkd")
    ]


def test_a_command_selects_one_cell():
    arguments = ["--tasks", "arithmetic", "--sizes", "100", "--inits", "sft"]
    plan = run.plan(run.parse_args([*arguments, "--methods", "ipd"]))
    assert list(plan) == [(cells.Group("arithmetic", 100, "sft", "ipd"), 3)]
    with pytest.raises(SystemExit):
        run.parse_args(["--methods", "unknown"])
