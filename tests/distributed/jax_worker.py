"""Tiny models on the devices of JAX, in a process of its own.

The number of virtual devices is read when JAX starts. `results_of` starts the
process and gives it a list of calls of the functions below, as JSON.
"""

import collections
import json
import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
VOCABULARY_SIZE = 64
LENGTH = 12


def results_of(num_devices, calls):
    """The results of a list of calls, each a name and a dict of arguments."""
    (process,) = start(num_devices, calls)
    return finish(process)


def start(num_devices, calls, num_processes=1):
    """Starts processes that make the same calls, as one job if several."""
    devices = f"--xla_force_host_platform_device_count={num_devices}"
    job = None
    if num_processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            job = f"127.0.0.1:{free.getsockname()[1]}"
    processes = []
    for process_id in range(num_processes):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.distributed.jax_worker"],
            cwd=ROOT,
            env={
                **os.environ,
                "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {devices}",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        job_of_process = job and [job, num_processes, process_id]
        process.stdin.write(json.dumps([job_of_process, calls]))
        process.stdin.close()
        process.stdin = None
        processes.append(process)
    return processes


def finish(process, timeout=540):
    """The results of a process that `start` has started."""
    output, errors = process.communicate(timeout=timeout)
    assert process.returncode == 0, errors[-4000:]
    return json.loads(output.splitlines()[-1])


def main():
    job, calls = json.load(sys.stdin)
    if job is not None:
        import jax

        # As `keras.distribution.initialize`, which takes no timeout.
        jax.distributed.initialize(*job, heartbeat_timeout_seconds=20)
    results = [globals()[name](**arguments) for name, arguments in calls]
    print("\n" + json.dumps(results))


# The libraries are only needed in the process itself.


def distribution_of(mesh, cut=None):
    """No distribution, `DataParallel` or, on a pair, `ModelParallel`.

    Args:
        mesh: `None`, the number of devices, or a pair of the numbers of parts
            of the rows and of the weights.
        cut: the name of a KerasHub model whose layout map is used. Defaults to
            `None`: all weights are replicated.
    """
    import keras
    import keras_hub

    if mesh is None:
        return None
    devices = keras.distribution.list_devices()
    if isinstance(mesh, int):
        # In several processes, each has its own part of the data.
        return keras.distribution.DataParallel(
            devices=devices[:mesh], auto_shard_dataset=False
        )
    mesh = keras.distribution.DeviceMesh(
        mesh, ["batch", "model"], devices[: mesh[0] * mesh[1]]
    )
    layout = keras.distribution.LayoutMap(mesh)
    if cut is not None:
        # Gemma 3 has no map, but the names and shapes of Gemma's weights.
        name = "Gemma" if cut == "Gemma3" else cut
        backbone = getattr(keras_hub.models, f"{name}Backbone")
        layout = backbone.get_layout_map(mesh)
    return keras.distribution.ModelParallel(
        layout_map=layout, batch_dim_name="batch"
    )


def distiller_of(
    mesh=None,
    family="Llama",
    cut=("teacher", "student"),
    sampler="greedy",
    rollout="speculative",
    loss="forward_kl",
    reduction="sequence_mean",
    accumulate=None,
    micro_batch_size=None,
    accumulate_gradients=True,
    lora=False,
    int8=False,
    policy="float32",
    scale=0.5,
):
    """A compiled distiller of models that a mesh holds in parts or whole."""
    import keras

    import keras_skd
    from tests.support.writing import random_causal_lm

    keras.config.set_dtype_policy(policy)
    models = []
    for seed, name in enumerate(["teacher", "student"], start=1):
        distribution = distribution_of(mesh, family if name in cut else None)
        keras.distribution.set_distribution(distribution)
        models.append(
            random_causal_lm(
                family.lower(),
                seed=seed,
                num_layers=1,
                num_key_value_heads=4,
                vocabulary_size=VOCABULARY_SIZE,
            )
        )
    teacher, student = models
    if int8:
        teacher.quantize("int8")
    if lora:
        student.backbone.enable_lora(rank=2)
    k = keras_skd.schedules.Linear(8, 2, 10)
    speculative = keras_skd.rollouts.Speculative(
        keras_skd.acceptance.TopK(k),
        num_speculative_tokens=2,
        student_sampler=sampler,
        teacher_sampler=sampler,
    )
    rollouts = {
        "speculative": speculative,
        "mixture": keras_skd.rollouts.Mixture(
            [(speculative, 0.7), ("supervised", 0.3)]
        ),
        "supervised": keras_skd.rollouts.Supervised(),
    }
    distiller = keras_skd.Distiller(
        teacher,
        student,
        rollouts[rollout],
        stop_token_ids=tuple(range(8)),
        seed=0,
    )
    loss = keras_skd.losses.get(loss)
    loss.reduction = reduction
    # Not Adam, which makes large steps of gradients that are rounding alone.
    optimizer = keras.optimizers.SGD(
        0.5, momentum=0.9, gradient_accumulation_steps=accumulate
    )
    distiller.compile(
        optimizer=optimizer,
        loss=loss,
        micro_batch_size=micro_batch_size,
        accumulate_gradients=accumulate_gradients,
    )
    return distiller


def refused(**arguments):
    """The message of the error that `compile` raises."""
    try:
        distiller_of(**arguments)
    except ValueError as error:
        return str(error)


def data_of(num_rows):
    """Prompts of many lengths, each with a response."""
    import numpy as np

    rng = np.random.default_rng(0)
    token_ids = rng.integers(8, VOCABULARY_SIZE, (num_rows, LENGTH))
    ends = np.arange(LENGTH)[None]
    lengths = rng.integers(2, 6, (num_rows, 1))
    responses = rng.integers(1, 6, (num_rows, 1))
    is_token = ends < lengths + responses
    return {
        "token_ids": (token_ids * is_token).astype("int32"),
        "padding_mask": is_token,
        "response_mask": is_token & (ends >= lengths),
    }


def train(num_rows=10, batch_size=4, steps=10, padding=0, **arguments):
    """Trains for some steps.

    Args:
        padding: int. The number of columns of padding to add, which are then
            not read.

    Returns:
        dict of the `"logs"` after each step, the `"scores"` of an evaluation,
        some numbers of each weight of the student, the `"margin"` that a token
        was chosen by, and how often the weights were cut.
    """
    import keras
    import numpy as np

    from keras_skd._objective import widths

    distiller = distiller_of(**arguments)
    data = data_of(num_rows)
    if padding:
        widths._SHORT = 32
        data = {k: np.pad(x, [(0, 0), (0, padding)]) for k, x in data.items()}
    step_logs = []
    distiller.fit(
        data,
        batch_size=batch_size,
        epochs=-(-steps // -(-num_rows // batch_size)),
        shuffle=False,
        verbose=0,
        callbacks=[
            keras.callbacks.LambdaCallback(
                on_train_batch_end=lambda batch, logs: step_logs.append(logs)
            )
        ],
    )
    # Without responses, which the rollout has to write.
    prompts = {k: v for k, v in data.items() if k != "response_mask"}
    prompts["padding_mask"] = data["padding_mask"] & ~data["response_mask"]
    if distiller.rollout.needs_responses:
        prompts = data
    written = distiller.generate_rollout(prompts)
    scores = distiller.evaluate(
        data, batch_size=batch_size, verbose=0, return_dict=True
    )
    weights = distiller.student.get_weights()
    return {
        "logs": [{k: float(v) for k, v in log.items()} for log in step_logs],
        "scores": scores,
        "weights": [w.astype("float64").ravel()[:50].tolist() for w in weights],
        "tokens": written["token_ids"].tolist(),
        "lengths": written["response_mask"].sum(axis=1).tolist(),
        "margin": margin(distiller, written),
        "cut": {
            name: sum(
                not v.value.sharding.is_fully_replicated
                for v in getattr(distiller, name).weights
            )
            for name in ("teacher", "student")
        },
        "finite": all(np.isfinite(w).all() for w in weights),
    }


def train_in_processes(
    num_rows=8, batch_size=4, epochs=3, folder=None, dies_after=None
):
    """Trains on this process' part of each batch.

    Args:
        folder: str. Where to back up each step, and to save the student.
        dies_after: int. The number of steps after which the last process ends
            without a word.
    """
    import jax
    import keras

    import keras_skd

    distiller = distiller_of(jax.device_count())
    count, index = jax.process_count(), jax.process_index()

    def part(rows):
        rows = rows.reshape(-1, count, batch_size // count, *rows.shape[1:])
        return rows[:, index].reshape(-1, *rows.shape[3:])

    data = {key: part(rows) for key, rows in data_of(num_rows).items()}
    callbacks = []
    if folder is not None:
        callbacks.append(
            keras_skd.callbacks.BackupAndRestore(
                f"{folder}/{index}", save_freq=1
            )
        )
    if dies_after is not None and index == count - 1:

        def die(batch, logs):
            if distiller.optimizer.iterations == dies_after:
                os._exit(1)

        callbacks.append(keras.callbacks.LambdaCallback(on_train_batch_end=die))
    history = distiller.fit(
        data,
        batch_size=batch_size // count,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    ).history
    scores = distiller.evaluate(
        data, batch_size=batch_size // count, verbose=0, return_dict=True
    )
    weights = distiller.student.get_weights()
    if folder is not None and index == 0:
        # Keras makes variables in order to save, which all processes would
        # have to make.
        keras.distribution.set_distribution(None)
        distiller.student.save_weights(f"{folder}/student.weights.h5")
    return {
        "num_devices": jax.device_count(),
        "history": history,
        "scores": scores,
        "weights": [w.astype("float64").ravel()[:50].tolist() for w in weights],
    }


def resume(folder, mesh):
    """Trains through, and with an interrupt that a second distiller resumes."""
    import keras

    import keras_skd

    class InterruptAfter(keras.callbacks.Callback):
        def __init__(self, steps):
            super().__init__()
            self.steps = steps

        def on_train_batch_end(self, batch, logs=None):
            self.steps -= 1
            if not self.steps:
                raise KeyboardInterrupt

    def fit(callbacks=()):
        distiller = distiller_of(mesh, sampler="random")
        try:
            distiller.fit(
                data_of(8),
                batch_size=4,
                epochs=3,
                shuffle=False,
                verbose=0,
                callbacks=list(callbacks),
            )
        except KeyboardInterrupt:
            pass
        return distiller

    backup = dict(backup_dir=folder, save_freq=1)
    through = fit()
    interrupted = fit(
        [keras_skd.callbacks.BackupAndRestore(**backup), InterruptAfter(3)]
    )
    resumed = fit([keras_skd.callbacks.BackupAndRestore(**backup)])
    return {
        "steps": [
            int(d.training_step) for d in (through, interrupted, resumed)
        ],
        "weights": [
            [w.astype("float64").ravel()[:50].tolist() for w in weights]
            for weights in (
                through.student.get_weights(),
                resumed.student.get_weights(),
            )
        ],
    }


def margin(distiller, written):
    """How far the logits are from a different choice of any token.

    Returns:
        float: the smallest distance of the largest logit of either model from
        the second, and of those that the teacher accepts from those that it
        does not.
    """
    import numpy as np
    from keras import ops

    # Positions that predict a token of a response.
    at = written["response_mask"][:, 1:]
    inputs = {k: written[k] for k in ("token_ids", "padding_mask")}
    smallest = []
    k = 2  # The last value of the schedule.
    for model in (distiller.teacher, distiller.student):
        logits = ops.convert_to_numpy(model(inputs))[:, :-1][at]
        ordered = -np.sort(-logits.astype("float32"), axis=-1)
        places = [0] if model is distiller.student else [0, k - 1]
        smallest += [(ordered[:, i] - ordered[:, i + 1]).min() for i in places]
    return float(min(smallest))


def sample(mesh, num_rows=8):
    """Two rollouts of equal prompts, and one by a second distiller."""
    import numpy as np

    prompts = {
        "token_ids": np.full((num_rows, LENGTH), 9, "int32"),
        "padding_mask": np.broadcast_to(
            np.arange(LENGTH) < 3, (num_rows, LENGTH)
        ),
    }
    tokens = []
    for _ in range(2):
        distiller = distiller_of(mesh, sampler="random")
        tokens += [
            distiller.generate_rollout(prompts)["token_ids"].tolist()
            for _ in range(2)
        ]
    return tokens


def program(num_rows=8, **arguments):
    """What the compiled train step sends, and the memory that it takes."""
    import jax
    from keras.src.backend.jax.trainer import _distribute_data

    from benchmarks.collectives import collectives

    distiller = distiller_of(**arguments)
    distiller.optimizer.build(distiller.trainable_variables)
    shardings = None
    if arguments.get("mesh") is not None:
        shardings = None, distiller._get_state_sharding_spec()
    groups = (
        distiller.trainable_variables,
        distiller.non_trainable_variables,
        distiller.optimizer.variables,
        distiller.metrics_variables,
    )
    compiled = (
        jax.jit(distiller.train_step, donate_argnums=0, out_shardings=shardings)
        .lower(
            tuple([v.value for v in group] for group in groups),
            _distribute_data((data_of(num_rows),)),
        )
        .compile()
    )
    loops = collections.defaultdict(list)
    for collective in collectives(compiled.as_text()):
        name = "-".join(map(str, collective.loops))
        loops[name].append((collective.kind, collective.shapes))
    memory = compiled.memory_analysis()
    return {
        "loops": loops,
        "arguments": memory.argument_size_in_bytes,
        "temporary": memory.temp_size_in_bytes,
    }


if __name__ == "__main__":
    main()
