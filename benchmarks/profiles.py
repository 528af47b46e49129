"""What a measurement does, by the profiler of the backend."""

import pathlib

import keras


def profile(measure, folder, name):
    """Profiles the third call of a measurement.

    On PyTorch, the operations that take longest are written as text, and all of
    them as a trace for `chrome://tracing`; on JAX, a trace for TensorBoard and
    https://ui.perfetto.dev.

    Returns:
        The folder.
    """
    backend = keras.config.backend()
    folder = pathlib.Path(folder) / f"{name}-{backend}"
    folder.mkdir(parents=True, exist_ok=True)
    for _ in range(2):
        measure()
    if backend == "jax":
        import jax

        with jax.profiler.trace(str(folder), create_perfetto_trace=True):
            measure()
    elif backend == "torch":
        from torch import profiler

        with profiler.profile() as profiled:
            measure()
        profiled.export_chrome_trace(str(folder / "trace.json"))
        table = profiled.key_averages().table("self_cpu_time_total", 40)
        if profiled.profiler.use_device:
            table += profiled.key_averages().table("self_device_time_total", 40)
        (folder / "operations.txt").write_text(table)
    else:
        raise ValueError(
            f"Profiles are of JAX and PyTorch. Received: {backend}"
        )
    return folder
