"""Distil SmolLM2-135M-Instruct on several devices, with JAX.

    python examples/distributed/distill_jax.py                # rows are divided
    python examples/distributed/distill_jax.py --weights 2    # weights, too

On a machine without accelerators, the devices are virtual ones of the CPU: what
runs is the same, only no faster. Needs `pip install "keras-skd[jax,examples]"`,
takes a few minutes on two cores and downloads 100 MB, once. The student and the
data are those of `distill_smollm2.py`.
"""

import argparse
import os
import pathlib
import sys

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--virtual-devices", type=int, default=2)
parser.add_argument("--weights", type=int, default=1, help="parts to cut into")
parser.add_argument("--steps", type=int, default=4)
parser.add_argument("--batch-size", type=int, default=4)
parser.add_argument("--sequence-length", type=int, default=48)
parser.add_argument("--output", default="student", help="where to save it")
args = parser.parse_args()

# Both are read when JAX starts; the flag is about CPUs alone.
os.environ["KERAS_BACKEND"] = "jax"
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} "
    f"--xla_force_host_platform_device_count={args.virtual_devices}"
)

import keras  # noqa: E402

sys.path.append(str(pathlib.Path(__file__).parents[1]))
import smollm2  # noqa: E402

import keras_skd  # noqa: E402

keras.utils.set_random_seed(0)

# First the devices, then the models. The 9 heads of SmolLM2 stay whole.
devices = keras.distribution.list_devices()
mesh = keras.distribution.DeviceMesh(
    (len(devices) // args.weights, args.weights), ["batch", "model"], devices
)
layout = keras.distribution.LayoutMap(mesh)
layout["token_embedding/embeddings"] = ("model", None)
layout[".*feedforward_(intermediate|gate)_dense/kernel"] = (None, "model")
layout[".*feedforward_output_dense/kernel"] = ("model", None)
keras.distribution.set_distribution(
    keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")
)

teacher = smollm2.load_teacher()
student = smollm2.make_student(teacher)
held = sum(
    weight.value.addressable_shards[0].data.nbytes
    for weight in teacher.weights + student.weights
)
print(
    f"{len(devices)} devices: the rows in {mesh.shape[0]} parts, the weights "
    f"in {mesh.shape[1]}. Each holds {held / 2**20:.0f} MiB of weights."
)

# From here on, everything is as on one device.
questions, answers = smollm2.load_questions(
    args.batch_size * (args.steps + 1), seed=0
)
prompts = [smollm2.chat(question) for question in questions]
validation = {
    "prompts": prompts[: args.batch_size],
    "responses": answers[: args.batch_size],
}
distiller = keras_skd.Distiller(
    teacher,
    student,
    rollout=keras_skd.rollouts.Speculative(num_speculative_tokens=3),
    sequence_length=args.sequence_length,
    seed=0,
)
distiller.compile(
    optimizer=keras.optimizers.Adam(5e-4), loss=keras_skd.losses.ForwardKL()
)
before = distiller.evaluate(validation, return_dict=True, verbose=0)["loss"]
distiller.fit(
    {"prompts": prompts[args.batch_size :]},
    batch_size=args.batch_size,
    verbose=2,
)
after = distiller.evaluate(validation, return_dict=True, verbose=0)["loss"]
print(f"Validation loss {before:.3f} -> {after:.3f}")
distiller.student.save_to_preset(args.output)
print(f"The student is saved in {args.output!r}.")
