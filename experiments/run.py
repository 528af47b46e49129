"""Runs the experiment, or a part of it. Goes on where it was stopped.

    python -m experiments.run --jobs 2
    python -m experiments.run --tasks pronunciation --sizes 1000 \\
        --inits pretrained --methods skd on_policy --results again

Every finished run is a line of a file in `experiments/results/`, and is not run
again. The learning rate of a method is chosen first: for each task and kind of
initial student, by the development score of seed 0 with 1,000 prompts. It is
that of all other runs of the method. The values of K use that of SKD.
"""

import argparse
import collections
import concurrent.futures
import json
import multiprocessing
import os
import subprocess
import sys
import time

from experiments import cells
from experiments.cache import FOLDER


class Worker:
    """Runs what is missing of a group, in the process that calls it.

    Args:
        args: the arguments of the program.
    """

    def __init__(self, args):
        self.args = args

    def __call__(self, group, seeds):
        # Not before the process is pinned: XLA counts the cores it may use.
        from experiments import teachers
        from experiments.methods import KS
        from experiments.methods import METHODS
        from experiments.tasks import TASKS

        args, task = self.args, TASKS[group.task]
        lower = task.lower_is_better
        facts = json.dumps(teachers.facts(task, args.scale))
        path = group.path(args.results).with_name("teacher.json")
        cells.write_whole(path, facts)
        if group.method == cells.CHOSEN_K:
            k = cells.chosen_k(args.results, group.task, KS, lower)
            if k is None:
                print(f"{group.task}: K is not chosen yet.", flush=True)
                return
            group = group._replace(method=f"skd_{k}")
        decides = cells.rate_group(group, METHODS)
        rates = learning_rates(args, group)
        for cell in cells.search(decides, self._lines(decides), rates):
            self._run(cell)
        rate = cells.best_rate(self._lines(decides), rates, lower)
        for cell in cells.missing(group, self._lines(group), rate, seeds):
            self._run(cell)

    def _lines(self, group):
        return cells.read(group.path(self.args.results))

    def _run(self, cell):
        from experiments.runner import runner

        group = cell.group
        start = time.perf_counter()
        line = runner(group.task, self.args.scale, group.size).run(cell)
        line["all_seconds"] = round(time.perf_counter() - start, 1)
        cells.append(group.path(self.args.results), line)
        at = line["steps"].index(cells.ALL)
        print(
            f"{group.task} {group.size} {group.init} {group.method}: "
            f"rate {cell.learning_rate}, seed {cell.seed}, "
            f"test {line['test'][at]:.1f}, {line['all_seconds']:.0f} s",
            flush=True,
        )


def learning_rates(args, group):
    return args.learning_rates or cells.LEARNING_RATES[group.init]


def pin(cores):
    """Pins the process to a core of its own, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {allowed[cores.get() % len(allowed)]})


def parse_args(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    tasks = ["pronunciation", "translation", "arithmetic"]
    parser.add_argument("--tasks", nargs="+", choices=tasks, default=tasks)
    parser.add_argument(
        "--sizes", nargs="+", type=int, choices=cells.SIZES, default=cells.SIZES
    )
    parser.add_argument(
        "--inits", nargs="+", choices=cells.INITS, default=cells.INITS
    )
    parser.add_argument("--methods", nargs="+", metavar="METHOD")
    parser.add_argument(
        "--seeds", type=int, help="how many, in place of the plan's 5 or 3"
    )
    parser.add_argument(
        "--learning-rates",
        nargs="+",
        type=float,
        help="in place of those of the initial student",
    )
    parser.add_argument("--scale", choices=["full", "small"], default="full")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--results", default=cells.RESULTS)
    parser.add_argument(
        "--list", action="store_true", help="print the plan, and run nothing"
    )
    args = parser.parse_args(arguments)
    from experiments.methods import METHODS

    unknown = set(args.methods or []) - set(METHODS)
    if unknown:
        parser.error(f"`--methods` must be of {[*METHODS]}, not {[*unknown]}")
    args.are_named = args.methods is not None
    args.methods = {
        name: method
        for name, method in METHODS.items()
        if args.methods is None or name in args.methods
    }
    return args


def plan(args):
    """The groups to run, each with its number of seeds."""
    for group in cells.groups(
        args.tasks, args.methods, args.sizes, args.inits, args.are_named
    ):
        seeds = args.seeds or cells.num_seeds(group.size, group.init)
        yield group, seeds


def show_plan(args):
    """Prints the groups, their runs, and the hours that the rest will take."""
    from experiments.methods import METHODS

    planned, seconds = collections.Counter(), collections.defaultdict(list)
    for group, seeds in plan(args):
        lines = cells.read(group.path(args.results))
        runs = seeds
        if group.method in METHODS:
            if cells.rate_group(group, METHODS) == group:
                runs += len(learning_rates(args, group)) - 1
        planned[group.task] += runs
        seconds[group.task] += [line["all_seconds"] for line in lines]
        print(*group, f"{len(lines)} of {runs} runs")
    for task, runs in planned.items():
        print(f"{task}: {hours(runs, seconds[task], args.jobs)}")
    print(f"{planned.total()} runs are planned.")


def hours(runs, seconds, jobs):
    """What is left of a task, at the mean time of its finished runs."""
    left = f"{len(seconds)} of {runs} runs"
    if not seconds:
        return left
    mean = sum(seconds) / len(seconds)
    rest = max(runs - len(seconds), 0) * mean / jobs / 3600
    return f"{left}, {mean:.0f} s each, {rest:.1f} hours left"


def main():
    # Programs are compiled once for all processes, and all later ones.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(FOLDER / "xla"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("KERAS_BACKEND", "jax")
    args = parse_args()
    if args.list:
        show_plan(args)
        return
    # One at a time, on all cores, so that no two processes train the same.
    teachers = [sys.executable, "-m", "experiments.teachers", *args.tasks]
    subprocess.run([*teachers, "--scale", args.scale], check=True)
    spawn = multiprocessing.get_context("spawn")
    cores = spawn.Queue()
    for core in range(args.jobs):
        cores.put(core)
    with concurrent.futures.ProcessPoolExecutor(
        args.jobs, mp_context=spawn, initializer=pin, initargs=(cores,)
    ) as pool:
        worker = Worker(args)
        futures = [pool.submit(worker, *each) for each in plan(args)]
        for future in concurrent.futures.as_completed(futures):
            future.result()


if __name__ == "__main__":
    main()
