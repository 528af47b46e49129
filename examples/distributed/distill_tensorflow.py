"""Distil SmolLM2-135M-Instruct on several devices, with TensorFlow.

Each device holds both models, and has its own rows of every batch.

    python examples/distributed/distill_tensorflow.py

divides the CPU into two devices, and takes a few minutes on two cores; with
`--devices 0`, it takes the GPUs of the machine. On several machines, start it
on each, with its `TF_CONFIG`, and with `--devices workers`.
"""

import argparse
import os
import pathlib
import sys

os.environ["KERAS_BACKEND"] = "tensorflow"
sys.path.append(str(pathlib.Path(__file__).parents[1]))

import keras
import smollm2
import tensorflow as tf

import keras_skd

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--devices", default="2", help="0 for GPUs, or 'workers'")
parser.add_argument(
    # "speculative" compiles the teacher, too, and on a CPU needs 8 GB or more.
    "--rollout",
    default="on_policy",
    help="or 'speculative'",
)
parser.add_argument("--steps", type=int, default=4)
parser.add_argument("--batch-size", type=int, default=8, help="of all devices")
parser.add_argument("--sequence-length", type=int, default=48)
args = parser.parse_args()

# Before anything else: the strategy finds the devices, and the other machines.
if args.devices == "workers":
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
elif args.devices == "0":
    strategy = tf.distribute.MirroredStrategy()
else:
    cpu, *_ = tf.config.list_physical_devices("CPU")
    num_devices = int(args.devices)
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * num_devices
    )
    strategy = tf.distribute.MirroredStrategy(
        [f"CPU:{i}" for i in range(num_devices)]
    )
print(f"{strategy.num_replicas_in_sync} devices")

keras.utils.set_random_seed(0)
questions, answers = smollm2.load_questions(8 + args.steps * args.batch_size)
prompts = [smollm2.chat(question) for question in questions]

# Every variable is made in the scope.
with strategy.scope():
    teacher = smollm2.load_teacher()
    student = smollm2.make_student(teacher, layers=[0, 1, 2, 27, 28, 29])
    distiller = keras_skd.Distiller(
        teacher,
        student,
        args.rollout,
        sequence_length=args.sequence_length,
        seed=0,
    )
    distiller.compile(keras.optimizers.Adam(5e-4), loss="forward_kl")

distiller.fit(
    {"prompts": prompts[8:]},
    batch_size=args.batch_size,
    validation_data={"prompts": prompts[:8], "responses": answers[:8]},
    verbose=2,
)
