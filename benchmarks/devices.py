"""A model of what several devices cost on JAX, and checks of it.

    python benchmarks/devices.py sends          # bytes, against programs
    python benchmarks/devices.py measured       # seconds, on virtual devices
    python benchmarks/devices.py accelerators   # seconds, on paper

A mesh cuts the rows of a batch into parts, and each part is written by a group
of devices that cut the weights among them: attention by heads, feed-forward
layers by their inner dimension, the embedding by tokens. The guide "Towards
hundreds of accelerators" says what comes out.
"""

import argparse
import dataclasses
import math
import os
import statistics
from typing import NamedTuple

from shapes import SHAPES
from shapes import Llama
from shapes import Shape

# XLA reads it when JAX starts.
NUM_DEVICES = 8
FLOAT, INT, BOOL = 4, 4, 1


class Mesh(NamedTuple):
    """The numbers of parts of the rows and of the weights."""

    rows: int = 1
    weights: int = 1

    @property
    def size(self):
        return self.rows * self.weights


ONE_DEVICE = Mesh()


class Sent(NamedTuple):
    """The collectives of a part of a step, and bytes of their results.

    The results are those on one device. A ring sends twice as much for an
    all-reduce.
    """

    collectives: int = 0
    bytes: int = 0

    def __add__(self, other):
        return Sent(*(a + b for a, b in zip(self, other)))

    def __mul__(self, times):
        return Sent(*(times * a for a in self))


def num_parameters(model: Llama, vocabulary_size: int) -> int:
    """The weights of a model with tied embeddings."""
    head_dim = model.hidden_dim // model.num_query_heads
    heads = 2 * (model.num_query_heads + model.num_key_value_heads)
    layer = heads * head_dim + 3 * model.intermediate_dim + 2
    layers = model.num_layers * layer + vocabulary_size + 1
    return layers * model.hidden_dim


def cache_size(shape: Shape, model: Llama) -> float:
    """The numbers in the cache of a row, on average over a rollout."""
    head_dim = model.hidden_dim // model.num_query_heads
    positions = shape.prompt_length + shape.num_new_tokens / 2
    return (
        2 * model.num_layers * model.num_key_value_heads * head_dim * positions
    )


# What is sent.


def forward_pass(model, rows, width, mesh, to_caches=False) -> Sent:
    """Reading `width` tokens of each row of a device.

    Args:
        to_caches: bool. Whether nothing but the caches is needed, so that the
            last layer is not finished.
    """
    if mesh.weights == 1:
        return Sent()
    # The embedding, then the attention and the feed-forward of each layer.
    count = 1 + 2 * (model.num_layers - to_caches)
    return Sent(1, FLOAT * rows * width * model.hidden_dim) * count


def greedy(rows, mesh) -> Sent:
    """The likeliest token of a vocabulary that is cut."""
    if mesh.weights == 1:
        return Sent()
    # A softmax, then the largest value of each part and its token.
    largest = Sent(2, (FLOAT + INT) * rows * mesh.weights)
    return Sent(2, 2 * FLOAT * rows) + largest


def prefill(shape, mesh) -> Sent:
    """A chunk of the prompts, read by both models."""
    rows = shape.batch_size // mesh.rows
    width = min(32, shape.sequence_length)
    return sum(
        (
            forward_pass(model, rows, width, mesh, to_caches=True)
            for model in (shape.student, shape.teacher)
        ),
        start=Sent(),
    )


def draft(shape, mesh) -> Sent:
    """One token of each row by the student."""
    rows = shape.batch_size // mesh.rows
    return forward_pass(shape.student, rows, 1, mesh) + greedy(rows, mesh)


def verification(shape, mesh, width) -> Sent:
    """The rest of a round: the teacher's pass, and who is finished."""
    rows = shape.batch_size // mesh.rows
    sent = forward_pass(shape.teacher, rows, width, mesh) + greedy(rows, mesh)
    if mesh.weights > 1:
        # The logits of the drafts, and their ranks.
        sent += Sent(2, (FLOAT + INT) * rows * width)
    if mesh.rows > 1:
        # Has every row ended? What is the most room in a row?
        sent += Sent(2, BOOL + INT)
    return sent


def gradients(shape, mesh) -> Sent:
    """The gradients of the student, where its weights are not cut."""
    if mesh.rows == 1:
        return Sent()
    size = num_parameters(shape.student, shape.vocabulary_size)
    # The tied embedding has two, as the first layer and as the head.
    size += shape.vocabulary_size * shape.student.hidden_dim
    return Sent(1, FLOAT * size)


# How long it takes.


class Machine(NamedTuple):
    """One device, and the way to the others.

    Attributes:
        flops: operations a second, in large products.
        memory_bandwidth: bytes a second, the speed of reading weights.
        bandwidth, latency: bytes a second and seconds, in a group.
        network_bandwidth, network_latency: between groups.
        bytes: int. The size of a weight, and of a number in a cache.
    """

    flops: float
    memory_bandwidth: float
    bandwidth: float
    latency: float
    network_bandwidth: float
    network_latency: float
    bytes: int = 2


# The data sheet of an H100 SXM, with half of the peak in products; 8 in a group
# on NVLink, 400 Gbit/s each to the other groups.
H100 = Machine(989e12 / 2, 3.35e12, 450e9, 1e-5, 50e9, 3e-5)


def tokens_per_round(acceptance_rate: float, num_drafts: int) -> float:
    """The expected number of tokens that a row gets in a round."""
    if acceptance_rate == 1:
        return num_drafts
    return (1 - acceptance_rate**num_drafts) / (1 - acceptance_rate)


def pass_seconds(machine, shape, model, rows, width, mesh):
    """A pass over `width` tokens of each row of a device."""
    size = num_parameters(model, shape.vocabulary_size) / mesh.weights
    sent = forward_pass(model, rows, width, mesh)
    read = (
        size + rows * cache_size(shape, model) / mesh.weights
    ) * machine.bytes
    compute = max(
        read / machine.memory_bandwidth,
        2 * size * rows * width / machine.flops,
    )
    return (
        compute
        + sent.collectives * machine.latency
        + 2 * sent.bytes * machine.bytes / FLOAT / machine.bandwidth
    )


def step_seconds(machine, shape, mesh, acceptance_rate, num_drafts):
    """The seconds of the rollout and of the training in a step."""
    rows = shape.batch_size / mesh.rows
    rounds = shape.num_new_tokens / tokens_per_round(
        acceptance_rate, num_drafts
    )
    passes = num_drafts * pass_seconds(
        machine, shape, shape.student, rows, 1, mesh
    ) + pass_seconds(machine, shape, shape.teacher, rows, num_drafts, mesh)
    waits = 2 * machine.network_latency if mesh.rows > 1 else 0.0
    rollout = rounds * (passes + waits)
    # Forward and backward; the teacher has read the rollout.
    size = num_parameters(shape.student, shape.vocabulary_size)
    tokens = shape.batch_size * shape.sequence_length
    training = 6 * size * tokens / (machine.flops * mesh.size)
    sent = gradients(shape, mesh).bytes * machine.bytes / FLOAT / mesh.weights
    training += (
        2 * (mesh.rows - 1) / mesh.rows * sent / machine.network_bandwidth
    )
    return rollout, training


# The three commands.


def sends():
    """Prints modelled and compiled bytes; fails where they differ."""
    shape = dataclasses.replace(
        SHAPES["toy"],
        batch_size=8,
        student=Llama(2, 16, 4, 4, 32),
        teacher=Llama(3, 32, 4, 4, 64),
        vocabulary_size=512,
    )
    width = 2
    equal = True
    print("mesh    part            modelled              compiled")
    for mesh in (Mesh(2, 1), Mesh(4, 1), Mesh(8, 1), Mesh(1, 2), Mesh(2, 4)):
        modelled = {
            "a prefill": prefill(shape, mesh),
            "a draft": draft(shape, mesh),
            "a verification": verification(shape, mesh, width),
        }
        if mesh.weights == 1:
            modelled["gradients"] = gradients(shape, mesh)
        compiled = compiled_sends(shape, mesh, width)
        for part, sent in modelled.items():
            found = compiled[part]
            equal = equal and found == sent
            print(
                f"{mesh.rows} x {mesh.weights}   {part:15} "
                f"{sent.collectives:3} {sent.bytes:9,} bytes   "
                f"{found.collectives:3} {found.bytes:9,} bytes"
            )
    if not equal:
        raise SystemExit("The model and the programs differ.")


def compiled_sends(shape, mesh, width) -> dict:
    """What a compiled train step sends, in the parts of the model."""
    from collectives import collectives

    with distributed(mesh):
        distiller, batch = make_distiller(shape, width)
        found = collectives(compile_step(distiller, batch).as_text())
    # Rounds are a loop around the loop of drafts. Without a collective in
    # that, they are the loop that asks who has ended.
    drafts = next((c.loops for c in found if len(c.loops) == 2), None)
    rounds = (
        drafts[:1]
        if drafts
        else next(c.loops for c in found if c.shapes == ("pred[]",))
    )

    def total(where):
        here = [c for c in found if where(c)]
        return Sent(len(here), sum(c.num_bytes for c in here))

    def is_gradients(collective):
        return not collective.loops and len(collective.shapes) > 1

    sent = total(is_gradients)
    # Metrics are sums over the rows, and travel along as scalars.
    scalars = sum(
        FLOAT
        for c in found
        if is_gradients(c)
        for s in c.shapes
        if s == "f32[]"
    )
    return {
        "a prefill": total(lambda c: len(c.loops) == 1 and c.loops != rounds),
        "a draft": total(lambda c: drafts and c.loops == drafts),
        "a verification": total(lambda c: c.loops == rounds),
        "gradients": Sent(sent.collectives, sent.bytes - scalars),
    }


def measured(quick=False):
    """Prints modelled and measured seconds of a step on virtual devices.

    Virtual devices share the cores of the machine. What a step costs on one
    device and one core, whatever its rows, and what each row costs is measured
    in a process with one core; the time of a collective by itself. Nothing is
    fitted to several devices.
    """
    shape = SHAPES["toy" if quick else "small"]
    repeats = 1 if quick else 5
    half = dataclasses.replace(shape, batch_size=shape.batch_size // 2)
    whole, part = (on_one_core(step_time, s, repeats) for s in (shape, half))
    fixed = max(0.0, 2 * part - whole)
    print(
        f"one device, one core: {whole:.3f} s, of which {fixed:.3f} s for any "
        "rows"
    )
    num_cores = len(os.sched_getaffinity(0))
    # No draft is accepted: a round for each token.
    num_collectives = 2 * shape.num_new_tokens
    for rows in (1, 2, 4, 8):
        # One device does not keep all cores busy: that is not modelled.
        modelled = (rows * fixed + whole - fixed) / min(rows, num_cores)
        if rows > 1:
            modelled += num_collectives * collective_time(rows)
        seconds = step_time(shape, repeats, Mesh(rows))
        print(
            f"{rows} devices: modelled {modelled:.3f} s, measured "
            f"{seconds:.3f} s ({modelled / seconds - 1:+.0%})"
        )


def on_one_core(function, *args):
    """Calls a function in a process with one core."""
    import concurrent.futures
    import multiprocessing

    core = min(os.sched_getaffinity(0))
    with concurrent.futures.ProcessPoolExecutor(
        max_workers=1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=os.sched_setaffinity,
        initargs=(0, {core}),
    ) as executor:
        return executor.submit(function, *args).result()


def step_time(shape, repeats, mesh=ONE_DEVICE):
    """The median seconds of a training step."""
    import ours

    with distributed(mesh):
        distiller, batch = make_distiller(shape, 4)
        measure = ours.step(distiller, batch)
        seconds = [measure()["seconds"] for _ in range(repeats + 2)]
    return statistics.median(seconds[2:])


def collective_time(num_devices, repeats=1000):
    """The seconds of an all-reduce of a number."""
    import timeit

    import jax
    from jax.sharding import PartitionSpec

    mesh = jax.make_mesh((num_devices,), ("batch",))

    @jax.jit
    @jax.shard_map(
        mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec()
    )
    def sum_often(x):
        return jax.lax.fori_loop(
            0, repeats, lambda i, x: jax.lax.pmax(x + i, "batch"), x
        )

    sum_often(0).block_until_ready()
    run = lambda: sum_often(0).block_until_ready()  # noqa: E731
    return min(timeit.repeat(run, number=1, repeat=3)) / repeats


def distributed(mesh):
    """A scope in which Keras distributes rows and weights over the mesh."""
    import contextlib

    import keras

    if mesh.size == 1:
        return contextlib.nullcontext()
    devices = keras.distribution.list_devices()[: mesh.size]
    device_mesh = keras.distribution.DeviceMesh(
        tuple(mesh), ["batch", "model"], devices
    )
    layout = keras.distribution.LayoutMap(device_mesh)
    layout["token_embedding/embeddings"] = ("model", None)
    layout[".*self_attention/(query|key|value)/kernel"] = (None, "model", None)
    layout[".*attention_output/kernel"] = ("model", None, None)
    layout[".*(intermediate|gate)_dense/kernel"] = (None, "model")
    layout[".*feedforward_output_dense/kernel"] = ("model", None)
    return keras.distribution.ModelParallel(
        layout_map=layout, batch_dim_name="batch"
    ).scope()


def make_distiller(shape, num_drafts):
    """A distiller whose drafts are never accepted, and its batch."""
    import ours

    rollout = ours.Speculative(
        acceptance=ours.TopK(1),
        num_speculative_tokens=num_drafts,
        student_sampler="greedy",
        teacher_sampler="greedy",
    )
    distiller = ours.Bench(shape).distiller(rollout)
    return distiller, ours.make_batch(shape)


def compile_step(distiller, batch):
    """The train step as Keras' JAX trainer compiles it."""
    import jax
    import keras

    distribution = keras.distribution.distribution()
    distiller.optimizer.build(distiller.trainable_variables)
    groups = (
        distiller.trainable_variables,
        distiller.non_trainable_variables,
        distiller.optimizer.variables,
        distiller.metrics_variables,
    )
    state = tuple([v.value for v in group] for group in groups)
    batch = {
        name: jax.device_put(
            rows, distribution.get_data_layout(rows.shape).backend_layout
        )
        for name, rows in batch.items()
    }
    shardings = jax.tree.map(lambda x: x.sharding, state)
    step = jax.jit(
        distiller.train_step, donate_argnums=0, out_shardings=(None, shardings)
    )
    return step.lower(state, (batch,)).compile()


def accelerators():
    """Prints the modelled seconds of a step on groups of 8."""
    shape = Shape(
        vocabulary_size=128_256,
        student=Llama(16, 2048, 32, 8, 8192),
        teacher=Llama(80, 8192, 64, 8, 28_672),
        batch_size=1024,
        prompt_length=512,
        num_new_tokens=512,
    )
    print("devices  rows each  rollout  training   of the step")
    for groups in (1, 2, 4, 8, 16, 32, 64):
        mesh = Mesh(groups, 8)
        rollout, training = step_seconds(H100, shape, mesh, 0.8, 4)
        print(
            f"{mesh.size:7} {math.ceil(shape.batch_size / groups):10} "
            f"{rollout:7.1f} s {training:8.2f} s  "
            f"{rollout / (rollout + training):6.0%} rollout"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "command", choices=["sends", "measured", "accelerators"]
    )
    parser.add_argument("--quick", action="store_true", help="toy sizes, once")
    args = parser.parse_args()
    os.environ["KERAS_BACKEND"] = "jax"
    flag = f"--xla_force_host_platform_device_count={NUM_DEVICES}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"
    if args.command == "measured":
        measured(args.quick)
    else:
        {"sends": sends, "accelerators": accelerators}[args.command]()


if __name__ == "__main__":
    main()
