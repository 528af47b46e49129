"""Measures everything, one process after another, and prints one table.

    python benchmarks/run.py
    python benchmarks/run.py --accelerator
    python benchmarks/run.py --shapes small --backends jax --only skd

Every measurement is written to `benchmarks/raw/` at once. With the `--name` of
an earlier run, it resumes that run.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys

import table
from shapes import SHAPES

HERE = pathlib.Path(__file__).parent
BACKENDS = ["jax", "tensorflow", "torch"]
OURS = [
    "skd",
    "on_policy",
    "generate",
    "floor",
    "bound",
    "acceptance",
    "passes",
    "length",
    "position",
    "wide",
    "uneven",
]
PEERS = {
    "trl": "trl_gkd.py",
    "trl_distillation": "trl_distillation.py",
    "assisted": "assisted_generation.py",
}
# What is measured with `--accelerator`.
ON_ACCELERATOR = {
    "backends": ["jax", "torch"],
    "only": ["skd", "on_policy", "bound", "wide", "trl", "trl_distillation"],
}
NUM_THREADS = 2
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "2", "TRL_EXPERIMENTAL_SILENCE": "1"}


def environment(backend="torch", accelerator=False):
    """The same number of threads, and the CPU, for every process.

    With an accelerator, only the backend and less of their logs.
    """
    if accelerator:
        return {**os.environ, "KERAS_BACKEND": backend, **QUIET}
    threads = [
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "TF_NUM_INTRAOP_THREADS",
        "TF_NUM_INTEROP_THREADS",
    ]
    return {
        **os.environ,
        **{name: str(NUM_THREADS) for name in threads},
        "KERAS_BACKEND": backend,
        "JAX_PLATFORMS": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        **QUIET,
    }


def make_jobs(args, directory):
    """Names, backends and commands of processes, in their order."""
    repeats = ["--repeats", str(args.repeats)]
    if "memory" in args.only:
        for backend in args.backends:
            command = [sys.executable, HERE / "memory.py", *repeats]
            if args.quick:
                command += ["--vocabulary-size", "8192", "--hidden-dim", "32"]
            yield f"memory-{backend}", backend, command
    for shape in args.shapes:
        common = ["--shape", shape, *repeats]
        for backend in args.backends:
            possible = list(OURS)
            if backend != "jax":
                possible.remove("floor")
            # A count, the same on all backends.
            if shape == "smollm2" or backend != BACKENDS[0]:
                possible.remove("passes")
            parts = [part for part in possible if part in args.only]
            if parts:
                command = [sys.executable, HERE / "ours.py", *common]
                command += ["--only", *parts]
                name = [shape, backend, *(parts if parts != possible else [])]
                yield "-".join(name), backend, command
            if shape == "smollm2" and "trained" in args.only:
                command = [sys.executable, HERE / "trained_pair.py", *repeats]
                yield f"{shape}-{backend}-trained", backend, command
            if args.accelerator:
                command = [sys.executable, HERE / "ours.py", "--shape", shape]
                command += ["--profile", directory / "profiles"]
                yield f"{shape}-{backend}-profile", backend, command
        for part, script in PEERS.items():
            if part in args.only:
                command = [args.peers, HERE / script, *common]
                yield f"{shape}-{part}", "torch", command


def run(name, backend, command, directory, accelerator):
    """Runs a process, and saves each of its records at once."""
    path = directory / f"{name}.jsonl"
    if path.exists() and '"finished"' in path.read_text():
        print(f"{name}: measured already", file=sys.stderr)
        return
    print(f"{name} ...", file=sys.stderr)
    with (
        path.open("w") as records,
        path.with_suffix(".log").open("w") as log,
        subprocess.Popen(
            [str(argument) for argument in command],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment(backend, accelerator),
        ) as process,
    ):
        for line in process.stdout:
            is_record = line.startswith('{"')
            print(line, end="", file=records if is_record else log, flush=True)
        if process.wait() == 0:
            print(json.dumps({"finished": True}), file=records)
        else:
            print(f"{name} failed: see {log.name}", file=sys.stderr)


def describe(args, path):
    """Records the machine and the state of the code, for the table."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=HERE,
        capture_output=True,
        text=True,
    ).stdout.strip()
    commits = json.loads(path.read_text())["commits"] if path.exists() else []
    description = {
        "date": datetime.date.today().isoformat(),
        "commits": list(dict.fromkeys([*commits, commit or "unknown"])),
        "processor": _accelerator() if args.accelerator else _processor(),
        "threads": os.cpu_count() if args.accelerator else NUM_THREADS,
        "repeats": args.repeats,
    }
    path.write_text(json.dumps(description))


def _accelerator():
    """The name of the GPU, or that of the processor if there is none."""
    try:
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return subprocess.check_output(query, text=True).strip()
    except (OSError, subprocess.CalledProcessError):
        return _processor()


def _processor():
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES)
    parser.add_argument("--backends", nargs="+", choices=BACKENDS)
    everything = [*OURS, "trained", *PEERS, "memory"]
    parser.add_argument("--only", nargs="+", choices=everything)
    parser.add_argument(
        "--accelerator",
        action="store_true",
        help="Gemma 3 on the GPU, JAX and PyTorch, with profiles of a rollout",
    )
    parser.add_argument("--repeats", type=int)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="toy sizes, once: tries the scripts, measures nothing",
    )
    parser.add_argument(
        "--peers",
        default=HERE.parent / ".venv-peers" / "bin" / "python",
        type=pathlib.Path,
        help="a Python with torch, transformers and trl",
    )
    parser.add_argument(
        "--name",
        default=f"{datetime.datetime.now():%Y-%m-%d-%H%M%S}",
        help="folder in benchmarks/raw; an existing one is gone on with",
    )
    args = parser.parse_args()
    shapes = ["gemma3"] if args.accelerator else ["small", "smollm2"]
    toys = ["toy_gemma3"] if args.accelerator else ["toy"]
    args.shapes = args.shapes or (toys if args.quick else shapes)
    default = {"backends": BACKENDS, "only": everything}
    default = ON_ACCELERATOR if args.accelerator else default
    args.backends = args.backends or default["backends"]
    args.only = args.only or default["only"]
    args.repeats = args.repeats or (1 if args.quick else 5)
    if set(args.only) & set(PEERS) and not args.peers.exists():
        parser.error(
            f"`--peers` must be a Python with torch, transformers and trl, and "
            f"{args.peers} does not exist. `make bench` makes it; or leave "
            f"{list(PEERS)} out of `--only`."
        )
    return args


def main():
    args = parse_args()
    directory = HERE / "raw" / args.name
    directory.mkdir(parents=True, exist_ok=True)
    describe(args, directory / "run.json")
    if hasattr(os, "sched_setaffinity") and not args.accelerator:
        cores = sorted(os.sched_getaffinity(0))[:NUM_THREADS]
        os.sched_setaffinity(0, cores)
    try:
        for job in make_jobs(args, directory):
            run(*job, directory, args.accelerator)
    finally:
        print(table.render(directory))


if __name__ == "__main__":
    main()
