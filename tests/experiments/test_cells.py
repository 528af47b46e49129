"""Which runs are next. No model is run."""

import json

import pytest

from experiments import cells
from experiments import run
from experiments.methods import KS
from experiments.methods import METHODS

GROUP = cells.Group("pronunciation", 1000, "pretrained", "skd")
RATES = [1e-3, 3e-3]
AT = cells.STEPS.index(cells.ALL) + 1


def line(rate, seed, development):
    curve = [100.0] * (len(cells.STEPS) + 1)
    curve[AT] = development
    return {"learning_rate": rate, "seed": seed, "development": curve}


def pairs(found):
    return [(cell.learning_rate, cell.seed) for cell in found]


def test_the_learning_rate_comes_first():
    assert pairs(cells.search(GROUP, [], RATES)) == [(1e-3, 0), (3e-3, 0)]
    lines = [line(1e-3, 0, 20.0)]
    assert pairs(cells.search(GROUP, lines, RATES)) == [(3e-3, 0)]


@pytest.mark.parametrize("lower, rate", [(True, 3e-3), (False, 1e-3)])
def test_the_best_rate_is_that_of_the_first_seed(lower, rate):
    lines = [line(1e-3, 0, 20.0), line(3e-3, 0, 10.0)]
    lines += [line(1e-3, 1, 5.0), line(3e-3, 1, 30.0)]
    # A rate that was not to be tried.
    lines += [line(1.0, 0, 1.0), line(2.0, 0, 99.0)]
    assert cells.best_rate(lines, RATES, lower) == rate


def test_what_has_a_line_is_not_run_again():
    lines = [line(1e-3, 0, 20.0), line(3e-3, 0, 10.0), line(3e-3, 2, 11.0)]
    assert pairs(cells.missing(GROUP, lines, 3e-3, 3)) == [(3e-3, 1)]
    lines.append(line(3e-3, 1, 9.0))
    assert cells.missing(GROUP, lines, 3e-3, 3) == []


def test_a_rate_is_searched_for_once():
    other = cells.Group("pronunciation", 100, "sft", "skd")
    decides = GROUP._replace(init="sft")
    assert cells.rate_group(other, METHODS) == decides
    assert cells.rate_group(other._replace(method="skd_5"), METHODS) == decides
    imitkd = cells.rate_group(other._replace(method="imitkd"), METHODS)
    assert imitkd == decides._replace(method="imitkd")


def test_k_is_chosen_when_all_values_have_been_tried(tmp_path):
    for k, development in [(1, 12.0), (5, 10.0), (25, 11.0)]:
        assert cells.chosen_k(tmp_path, GROUP.task, [1, 5, 25], True) is None
        path = GROUP._replace(method=f"skd_{k}").path(tmp_path)
        cells.append(path, line(3e-3, 0, development))
    assert cells.chosen_k(tmp_path, GROUP.task, [1, 5, 25], True) == 5
    assert cells.chosen_k(tmp_path, GROUP.task, [1, 5, 25], False) == 1


def test_a_killed_process_leaves_the_lines_before(tmp_path):
    path = GROUP.path(tmp_path)
    assert cells.read(path) == []
    cells.append(path, line(1e-3, 0, 20.0))
    with path.open("a") as file:
        file.write(json.dumps(line(3e-3, 0, 10.0))[:20])
    first = line(1e-3, 0, 20.0)
    assert cells.read(path) == [first]
    cells.append(path, line(3e-3, 0, 10.0))
    assert cells.read(path) == [first, line(3e-3, 0, 10.0)]


def test_the_most_wanted_groups_come_first():
    groups = [group for group, _ in run.plan(run.parse_args([]))]
    assert len(groups) == len(set(groups))
    first = [(g.size, g.init, g.method) for g in groups[:4]]
    assert first == [
        (1000, "pretrained", method)
        for method in ("skd", "supervised", "on_policy", "imitkd")
    ]


def test_values_of_k_are_compared_under_the_first_condition():
    of_k = [
        (group.size, group.init, group.method)
        for group, _ in run.plan(run.parse_args(["--tasks", "arithmetic"]))
        if group.method.startswith("skd_")
        and group.method not in ("skd_mixed", "skd_greedy")
    ]
    first = [(1000, "pretrained", f"skd_{k}") for k in KS]
    others = [(*condition, "skd_chosen") for condition in cells.CONDITIONS[1:]]
    assert of_k == first + others


def test_ablations_on_one_task_are_run_there_alone():
    groups = [group for group, _ in run.plan(run.parse_args([]))]
    of_losses = [g[:3] for g in groups if g.method == "skd_reverse"]
    assert of_losses == [("pronunciation", 1000, "pretrained")]


def test_a_command_selects_one_cell():
    arguments = ["--tasks", "arithmetic", "--sizes", "100", "--inits", "sft"]
    plan = run.plan(run.parse_args([*arguments, "--methods", "ipd"]))
    assert list(plan) == [(cells.Group("arithmetic", 100, "sft", "ipd"), 3)]
    # A value of K that is named is run, whichever is chosen.
    plan = run.plan(run.parse_args([*arguments, "--methods", "skd_5"]))
    assert [group.method for group, _ in plan] == ["skd_5"]
    with pytest.raises(SystemExit, match="2"):
        run.parse_args(["--methods", "unknown"])


def test_the_hours_left_follow_from_the_finished_runs():
    assert run.hours(10, [], 2) == "0 of 10 runs"
    expected = "2 of 10 runs, 90 s each, 0.1 hours left"
    assert run.hours(10, [60.0, 120.0], 2) == expected
