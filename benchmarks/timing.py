"""Repeats measurements in turn, and prints each as a record.

A record is a line of JSON on the standard output, so that an interrupt does not
lose it. Nothing here depends on a framework.
"""

import importlib.metadata
import json
import platform
import sys
import time
import traceback


def emit(**record):
    """Prints a record."""
    print(json.dumps(record), flush=True)


def emit_versions(*packages, **labels):
    """Prints the versions of the packages in this process."""
    versions = {p: importlib.metadata.version(p) for p in packages}
    emit(versions={"python": platform.python_version(), **versions}, **labels)


def interleave(measurements, repeats, **labels):
    """Makes all measurements in turn, so that the machine's state affects all.

    The first round compiles, the second settles everything that adapts (the
    number of drafts, caches), and `repeats` more are counted.

    Args:
        measurements: dict from names to callables that return a dict such as
            `{"seconds": 1.0}`.
        repeats: int.
        **labels: put into every record.
    """
    measurements = dict(measurements)
    for phase in ["first", "warm-up", *["counted"] * repeats]:
        for name, measure in list(measurements.items()):
            try:
                record = measure()
            except Exception:  # The other measurements go on.
                print(name, traceback.format_exc(), sep="\n", file=sys.stderr)
                emit(measurement=name, phase="failed", **labels)
                del measurements[name]
            else:
                emit(measurement=name, phase=phase, **labels, **record)


def timed(function):
    """Makes a measurement from a function that waits for its result."""

    def measure():
        start = time.perf_counter()
        function()
        return {"seconds": time.perf_counter() - start}

    return measure
