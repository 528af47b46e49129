"""Makes the table of a run from its records.

    python benchmarks/table.py benchmarks/raw/NAME

`run.py` prints it at its end.
"""

import collections
import json
import pathlib
import statistics
import sys

import bounds
from shapes import SEED
from shapes import SHAPES

COLUMNS = {
    "jax": "JAX",
    "tensorflow": "TensorFlow",
    "torch": "PyTorch",
    "peers": "TRL, Transformers",
}

# The recorded fields, their names in the table and their formats.
FIELDS = {
    "seconds": ("s", "{:.3g}"),
    "gigabytes": ("GB", "{:.2f}"),
    "gigabytes_per_second": ("GB/s", "{:.1f}"),
    "gigaflops_per_second": ("GFLOP/s", "{:.0f}"),
    "acceptance_rate": ("acceptance rate", "{:.3f}"),
    "tokens_per_row_and_pass": (
        "tokens per teacher pass and row, until the row is full",
        "{:.2f}",
    ),
    "tokens_per_pass": (
        "tokens per teacher pass and row, until all are full",
        "{:.2f}",
    ),
    "difference": ("at most", "{:.0e}"),
}

FLOOR = [
    "floor: student's prefill",
    "floor: student's one-token steps",
    "floor: teacher reads everything",
    "floor: student's forward and backward",
]
FLOOR_SUM = "floor: all of it"
TRL_STEP = "TRL GKD step, no checkpointing"
TRL_UPDATE = "TRL DistillationTrainer update, no checkpointing"

# The ratios in the table: of two measurements of a backend, or of a peer.
RATIOS = [
    (TRL_STEP, "SKD step, every draft accepted"),
    (TRL_STEP, "SKD step, trained pair"),
    (TRL_STEP, "SKD step, K = 25"),
    (TRL_STEP, "on-policy step"),
    ("TRL GKD step, defaults", "on-policy step"),
    ("TRL GKD rollout, no checkpointing", "on-policy rollout"),
    (
        "assisted generation, every draft accepted",
        "SKD rollout, every draft accepted",
    ),
    ("assisted generation, K = 25", "SKD rollout, K = 25"),
    ("KerasHub generate", "on-policy rollout"),
    *[
        (above, f"SKD update, {percent}% accepted")
        for percent in (0, 30, 90, 100)
        for above in (
            TRL_UPDATE,
            f"SKD update, batch by batch, {percent}% accepted",
        )
    ],
    (TRL_UPDATE, "on-policy update"),
    ("on-policy update, batch by batch", "on-policy update"),
    *[
        (
            f"{name} update, batch by batch, uneven",
            f"{name} update, uneven",
        )
        for name in ("SKD", "on-policy")
    ],
    ("SKD step, every draft accepted", FLOOR_SUM),
    ("on-policy step", FLOOR_SUM),
    *[
        (name, f"bound: {name}")
        for name in ("SKD step, every draft accepted", "on-policy step")
    ],
    *[
        (
            f"SKD rollout in lock-step, {percent}% accepted",
            f"SKD rollout, {percent}% accepted",
        )
        for percent in (10, 30, 90, 100)
    ],
    *[
        (f"{name}, sequence_length {length}", f"{name}, sequence_length 128")
        for name in ("SKD rollout", "on-policy rollout", "KerasHub generate")
        for length in ("1,024", "4,096")
    ],
    (
        "loss and gradients of whole logits",
        "loss and gradients by ChunkedLoss",
    ),
]


class Results:
    """The records of a run.

    Attributes:
        rows: dict from `(shape, measurement, field)` to a dict from the
            backend to the list of counted values.
        first: the same, of the first call.
    """

    def __init__(self, directory):
        self.rows = collections.defaultdict(dict)
        self.first = collections.defaultdict(dict)
        self.failed = []
        self.versions = {}
        for path in sorted(directory.glob("*.jsonl"), key=_order):
            for line in path.read_text().splitlines():
                self._add(json.loads(line))
        for shape in SHAPES:
            self._add_floor(shape)
            self._add_bounds(shape)

    def _add(self, record):
        if "versions" in record:
            self.versions.update(record["versions"])
        if "measurement" not in record:
            return
        backend = record["backend"]
        if record["phase"] == "failed":
            self.failed.append(
                f"{record['shape']}, {record['measurement']}, {backend}"
            )
        rows = {"first": self.first, "counted": self.rows}.get(record["phase"])
        if rows is None:
            return
        for field in FIELDS:
            if field in record:
                key = record["shape"], record["measurement"], field
                rows[key].setdefault(backend, []).append(record[field])

    def _add_floor(self, shape):
        parts = [
            self.rows.get((shape, part, "seconds"), {}).get("jax")
            for part in FLOOR
        ]
        if all(parts):
            sums = [sum(values) for values in zip(*parts)]
            self.rows[shape, FLOOR_SUM, "seconds"]["jax"] = sums

    def _add_bounds(self, shape):
        for backend in COLUMNS:
            rates = [
                self.rows.get((shape, *rate), {}).get(backend)
                for rate in (
                    (bounds.ONE_ROW, "gigabytes_per_second"),
                    (bounds.LARGE, "gigaflops_per_second"),
                )
            ]
            if not all(rates):
                continue
            steps = bounds.seconds(
                SHAPES[shape], *map(statistics.median, rates)
            )
            for name, value in steps.items():
                key = shape, f"bound: {name}", "seconds"
                self.rows[key][backend] = [value]

    def median(self, shape, measurement, field, backend):
        """The median, or a peer's, or `None`."""
        values = self.rows.get((shape, measurement, field), {})
        values = values.get(backend) or values.get("peers")
        return statistics.median(values) if values else None


def _order(path):
    """Sorts our columns before the peers'."""
    what = path.stem.split("-")[1]
    return [*COLUMNS, "trl", "trl_distillation", "assisted"].index(what)


def render(directory):
    """Returns the table of a run, as Markdown."""
    run = json.loads((directory / "run.json").read_text())
    results = Results(directory)
    versions = ", ".join(f"{k} {v}" for k, v in results.versions.items())
    measured = {shape for shape, _, _ in results.rows}
    shapes = [shape for shape in SHAPES if shape in measured]
    lines = [
        f"{run['date']}, {', '.join(run['commits'])}. {run['processor']}, "
        f"{run['threads']} threads. {versions}. Seed {SEED}. Medians of "
        f"{run['repeats']} (lowest to highest), after the first call and one "
        "to warm up.",
        "",
        *[f"* {shape}: {SHAPES[shape]}" for shape in shapes],
        "",
        f"| | {' | '.join(COLUMNS.values())} |",
        f"| --- {'| ---: ' * len(COLUMNS)}|",
    ]
    for shape in [*shapes, "loss"]:
        rows = [*_rows(shape, results), *_ratios(shape, results)]
        if rows:
            lines.append(_line(f"**{shape}**", {}))
            lines += [_line(*row) for row in rows]
    lines += [f"\nFailed: {failed}." for failed in results.failed]
    return "\n".join(lines)


def _line(name, cells):
    cells = [cells.get(column, "") for column in COLUMNS]
    return f"| {name} | {' | '.join(cells)} |"


def _rows(shape, results):
    for (its_shape, measurement, field), values in results.rows.items():
        if its_shape != shape:
            continue
        unit, form = FIELDS[field]
        cells = {k: _spread(v, form) for k, v in values.items()}
        yield f"{measurement}: {unit}", cells
        if measurement.startswith(("SKD step", "on-policy step")):
            first = results.first[shape, measurement, field]
            cells = {k: form.format(v[0]) for k, v in first.items()}
            yield f"{measurement}, the first: {unit}", cells
        if measurement in ("on-policy rollout", "KerasHub generate"):
            new_tokens = SHAPES[shape].num_new_tokens
            cells = {
                k: form.format(statistics.median(v) / new_tokens * 1e3)
                for k, v in values.items()
            }
            yield f"{measurement}: ms for each token", cells
        if field == "tokens_per_pass":
            cells = {next(iter(values)): form.format(_together(measurement))}
            yield f"{measurement}: the same, moving together (computed)", cells


def _spread(values, form):
    middle, low, high = (
        form.format(x)
        for x in (statistics.median(values), min(values), max(values))
    )
    return middle if low == high else f"{middle} ({low} to {high})"


def _together(measurement, drafts=8, accepted=0.9):
    """The tokens per pass if the batch moved at the pace of its slowest row.

    A row writes at least n tokens if its first n - 1 drafts are accepted; the
    batch, if those of all its rows are.
    """
    batch_size = int(measurement.split()[-1])
    return sum(accepted ** (batch_size * n) for n in range(drafts))


def _ratios(shape, results):
    for field in ("seconds", "gigabytes"):
        unit, _ = FIELDS[field]
        for above, below in RATIOS:
            ratios = {}
            for backend in COLUMNS:
                if backend not in results.rows.get((shape, below, field), {}):
                    continue
                ours = results.median(shape, below, field, backend)
                other = results.median(shape, above, field, backend)
                if other is not None:
                    ratios[backend] = f"{other / ours:.2f}"
            if ratios:
                yield f"ratio in {unit}: {above} / {below}", ratios


if __name__ == "__main__":
    print(render(pathlib.Path(sys.argv[1])))
