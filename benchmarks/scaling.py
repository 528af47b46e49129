"""Plots how the cost of a training step grows, at the small shape.

    KERAS_BACKEND=jax python benchmarks/scaling.py --output scaling.png

The rollout and the whole step (rollout and training), against the batch size,
the number of new tokens, the size of the vocabulary and the acceptance rate.
Everything else is as in the shape, and 90 % of the drafts are accepted.
"""

import argparse
import dataclasses
import statistics

import keras
import matplotlib
import ours
from shapes import SHAPES
from timing import emit

from keras_skd.rollouts import Speculative

matplotlib.use("agg")

import matplotlib.pyplot as plt

ACCEPTANCE = 0.9
# What varies, its name on the axis and its values.
FIELDS = {
    "batch_size": ("batch size", [1, 4, 16, 64]),
    "num_new_tokens": ("new tokens", [32, 96, 224, 480]),
    "vocabulary_size": ("vocabulary", [1024, 4096, 16384, 65536]),
}
RATES = [0.0, 0.25, 0.5, 0.75, 0.9, 1.0]


def measure(shape, acceptance_rates, repeats):
    """Seconds of a rollout and of a step, at each acceptance rate.

    One distiller serves all rates, since the rate is a variable.
    """
    bench = ours.Bench(shape)
    batch = ours.make_batch(shape)
    distiller = bench.distiller(Speculative(acceptance=ours.Controlled()))
    measurements = {
        "rollout": ours.write(distiller, batch),
        "step": ours.step(distiller, batch),
    }
    for rate in acceptance_rates:
        distiller.rollout.acceptance.probability.assign(rate)
        seconds = {name: [] for name in measurements}
        # Two more to compile and to settle the number of drafts.
        for _ in range(repeats + 2):
            for name, function in measurements.items():
                seconds[name].append(function()["seconds"])
        yield {k: statistics.median(v[2:]) for k, v in seconds.items()}


def sweep(shape, repeats):
    """Yields `(label, value, seconds)` for every point of the plot."""
    for field, (label, values) in FIELDS.items():
        if shape is SHAPES["toy"]:
            values = [getattr(shape, field) * n for n in (1, 2)]
        for value in values:
            varied = dataclasses.replace(shape, **{field: value})
            for seconds in measure(varied, [ACCEPTANCE], repeats):
                yield label, value, seconds
            keras.utils.clear_session()
    rates = measure(shape, RATES, repeats)
    for rate, seconds in zip(RATES, rates):
        yield "acceptance rate", rate, seconds


def plot(points, title, path):
    """Draws one panel for each thing that varies."""
    labels = list(dict.fromkeys(label for label, _, _ in points))
    figure, panels = plt.subplots(
        1, len(labels), figsize=(4 * len(labels), 3.6), layout="constrained"
    )
    for panel, label in zip(panels, labels):
        here = [point for point in points if point[0] == label]
        x = [value for _, value, _ in here]
        for name in ("step", "rollout"):
            y = [seconds[name] for _, _, seconds in here]
            panel.plot(x, y, marker="o", label=name)
        panel.set_xlabel(label)
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
        if label != "acceptance rate":
            panel.set_xscale("log", base=2)
            panel.set_xticks(x, [f"{value:,}" for value in x])
            panel.minorticks_off()
    panels[0].set_ylabel("seconds")
    panels[0].legend(frameon=False)
    figure.suptitle(title, fontsize="medium")
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", default="scaling.png")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="toy sizes, once")
    args = parser.parse_args()
    shape = SHAPES["toy" if args.quick else "small"]
    repeats = 1 if args.quick else args.repeats
    points = []
    for label, value, seconds in sweep(shape, repeats):
        emit(**{label: value}, **seconds)
        points.append((label, value, seconds))
    title = f"keras_skd on {keras.config.backend()}: {shape}"
    plot(points, title, args.output)


if __name__ == "__main__":
    main()
