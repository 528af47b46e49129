"""Trainings that do the same in one process and in several.

    torchrun --nproc-per-node 2 -m tests.distributed.torch_worker FOLDER NAMES

Each process writes the history and the weights of each to a file.
"""

import functools
import json
import os
import pathlib
import signal
import sys
from unittest import mock

import keras
import numpy as np
import torch

import keras_skd
from keras_skd._objective import widths
from tests.support import distillers
from tests.support import tokenizers
from tests.support import writing
from tests.support.writing import random_causal_lm

# The last of the batches of 4 has one row: the others have none.
BATCH_SIZE = 4
EPOCHS = 3
LENGTH = 16
DATA = {
    "prompts": [
        "Alice was beginning",
        "Would you tell me",
        "The",
        "That depends a good deal on",
        "said the Cat.",
        "Begin at the beginning, the",
        "There was nothing",
        "go on till",
        "which way I ought to go",
        "very",
        "of sitting by her sister",
        "to get",
        "where you want",
    ],
    "responses": [
        " to get very tired",
        ", please",
        " King said, very gravely",
        " where",
        " Begin",
        " King",
        " so very remarkable",
        " you come",
        " from here?",
        " tired",
        " on the bank",
        " to, said the Cat.",
        " to get to",
    ],
}
VALIDATION = {key: column[:3] for key, column in DATA.items()}


def rollouts_of():
    speculative = distillers.speculative
    schedules = keras_skd.schedules
    return {
        "supervised": keras_skd.rollouts.Supervised(),
        "speculative": speculative(num_speculative_tokens=2),
        "schedule": keras_skd.rollouts.Speculative(
            keras_skd.acceptance.TopK(schedules.Linear(5, 200, num_steps=10)),
            num_speculative_tokens=2,
            student_sampler="greedy",
            teacher_sampler="greedy",
        ),
        "mixture": keras_skd.rollouts.Mixture(
            {
                "supervised": 1.0,
                speculative(num_speculative_tokens=2): 1.0,
                keras_skd.rollouts.OnPolicy("greedy"): schedules.Linear(
                    0.0, 2.0, num_steps=10
                ),
            }
        ),
    }


def objectives():
    losses = keras_skd.losses
    return {
        "sequence_mean": dict(loss="forward_kl"),
        "token_mean": dict(
            loss=losses.ReverseKL(reduction="token_mean"),
            rollout_metrics=["kl_by_source"],
        ),
        "micro_batches": dict(
            loss=losses.ForwardKL(reduction="token_mean"),
            hidden_state_loss=losses.HiddenStateL1(),
            rollout_metrics=["kl_by_source", "loss_parts"],
            micro_batch_size=1,
        ),
        "sum": dict(
            loss=losses.WeightedSum(
                [losses.ForwardKL(), losses.CrossEntropy()],
                [0.5, 0.1],
                reduction="sum",
            ),
            rollout_metrics=["kl_by_source", "loss_parts"],
        ),
        "distillm2": dict(
            loss=losses.DistiLLM2(steps_per_epoch=4, epochs=EPOCHS),
            hidden_state_loss=losses.HiddenStateL1(),
            rollout_metrics=["loss_parts", "tokens_per_teacher_pass"],
        ),
    }


def train(rollout, objective, accumulation=None, variant=None):
    """The history and the weights of a training that draws no numbers."""
    rollout, objective = rollouts_of()[rollout], objectives()[objective]
    if variant == "mixed_precision":
        keras.config.set_dtype_policy("mixed_bfloat16")
    preprocessor, short = None, widths._SHORT
    if variant == "padding":
        short = 2 * LENGTH
        preprocessor = tokenizers.gpt2(sequence_length=4 * LENGTH)
    teacher, student = distillers.models(preprocessor)
    keras.config.set_dtype_policy("float32")
    if variant == "lora":
        teacher.quantize("int8")
        keras.utils.set_random_seed(0)
        student.backbone.enable_lora(2)
    if variant == "regularizer":
        first = student.trainable_variables[0]
        first.regularizer = keras.regularizers.L2(0.01)
    distiller = keras_skd.Distiller(teacher, student, rollout, seed=0)
    distiller.compile(
        optimizer=keras.optimizers.SGD(
            0.05, momentum=0.5, gradient_accumulation_steps=accumulation
        ),
        **objective,
    )
    data = dict(DATA)
    if variant == "teacher_prompts":
        data["teacher_prompts"] = [f"{x} very" for x in data["prompts"]]
    with mock.patch.object(widths, "_SHORT", short):
        history = distiller.fit(
            data,
            batch_size=BATCH_SIZE,
            epochs=EPOCHS,
            shuffle=False,
            validation_data=VALIDATION,
            verbose=0,
        )
    logs = dict(history.history)
    if not rollout.needs_responses:
        logs["written"] = distiller.evaluate(
            {"prompts": DATA["prompts"]},
            batch_size=BATCH_SIZE,
            return_dict=True,
            verbose=0,
        )
    return {"history": json.dumps(logs), **weights_of(student)}


def weights_of(model):
    return values_of(model.weights)


def values_of(variables):
    return {
        f"{i} {v.path}": keras.ops.convert_to_numpy(v)
        for i, v in enumerate(variables)
    }


class Recorded(keras_skd.rollouts.OnPolicy):
    """Keeps what is written, and a number of PyTorch's own."""

    def __init__(self):
        super().__init__("random")
        self.token_ids, self.numbers = [], []

    def call(self, *args, **kwargs):
        written = super().call(*args, **kwargs)
        self.token_ids.append(keras.ops.convert_to_numpy(written["token_ids"]))
        self.numbers.append(float(torch.rand(())))
        return written


def random_distiller(rank, rollout=None, seed=None):
    """Nothing is the same in two processes but the arguments."""
    if rollout is None:
        # Two numbers of drafts, to compile less than the default.
        keras_skd.rollouts._speculative._CHOICES = (1, 2)
        rollout = keras_skd.rollouts.Speculative(keras_skd.acceptance.TopK(12))
    distiller = keras_skd.Distiller(
        random_causal_lm("llama", rank, num_layers=1),
        # With dropout.
        random_causal_lm("gpt2", 10 + rank, num_layers=1),
        rollout,
        seed=seed,
    )
    distiller.compile(optimizer=keras.optimizers.Adam(0.01))
    return distiller


def sample(folder):
    """Samples, after equal prompts, from models that differ at first."""
    rank = int(os.environ["RANK"])
    prompts = writing.prompts([3] * 4, LENGTH)
    prompts = {key: x[:1].repeat(len(x), axis=0) for key, x in prompts.items()}
    results = {}
    for run in ("first", "second"):
        rollout = Recorded()
        distiller = random_distiller(rank, rollout, seed=0)
        torch.manual_seed(5)
        distiller.fit(prompts, batch_size=4, epochs=2, verbose=0)
        results[f"{run} tokens"] = np.stack(rollout.token_ids)
        results[f"{run} numbers"] = np.array(rollout.numbers)
    return results


def refuse(folder):
    """The message of the error that `compile` raises."""
    try:
        random_distiller(0).compile(
            micro_batch_size=1, accumulate_gradients=False
        )
    except ValueError as error:
        return {"error": str(error)}


def differ(folder):
    """Trains where models, seeds and the order of the data differ at first."""
    rank = int(os.environ["RANK"])
    torch.manual_seed(rank)
    callbacks = keras.callbacks
    distiller = random_distiller(rank)
    history = distiller.fit(
        writing.prompts([3, 1, 4, 1, 5, 9, 2, 6, 5, 3], LENGTH),
        batch_size=4,
        epochs=2,
        validation_data=writing.prompts([2, 7, 1], LENGTH),
        verbose=2,
        callbacks=[
            callbacks.EarlyStopping(patience=1),
            callbacks.ReduceLROnPlateau(patience=0, min_delta=10.0),
            callbacks.CSVLogger(folder / "log.csv", append=True),
            callbacks.ModelCheckpoint(folder / "checkpoint.keras"),
            callbacks.BackupAndRestore(folder / "keras_backup"),
            keras_skd.callbacks.JSONLinesLogger(folder / "log.jsonl"),
            keras_skd.callbacks.SaveBestStudent(folder / "best", "val_loss"),
        ],
    )
    return {
        "history": json.dumps(history.history),
        # With the seeds.
        **values_of(distiller.variables),
        "rate": float(distiller.optimizer.learning_rate),
    }


def decide(folder):
    """Trains with callbacks that decide differently in each process."""
    rank = int(os.environ["RANK"])
    distiller = random_distiller(0, seed=0)

    class Stop(keras.callbacks.Callback):
        """The second process would stop at once, the first one later."""

        def on_train_batch_end(self, batch, logs=None):
            if rank == 1 or distiller.training_step == 5:
                self.model.stop_training = True

    class Rate(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.optimizer.learning_rate = 0.01 / (1 + rank)

        def on_train_end(self, logs=None):
            weight = distiller.trainable_variables[0]
            weight.assign(weight * 0 + rank)

    distiller.fit(
        writing.prompts([3, 1, 4, 1, 5, 9], LENGTH),
        batch_size=2,
        epochs=3,
        shuffle=False,
        verbose=0,
        callbacks=[Stop(), Rate()],
    )
    return {
        "steps": int(distiller.training_step),
        "rate": float(distiller.optimizer.learning_rate),
        **weights_of(distiller.student),
    }


def resume(folder, is_killed=True):
    """Trains; the second process is killed once, in the second epoch."""
    rank = int(os.environ["RANK"])
    was_killed = folder / "killed"
    distiller = random_distiller(0, seed=0)

    class Kill(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            step = int(distiller.training_step)
            if is_killed and not was_killed.exists() and step == 5:
                if rank == 1:
                    was_killed.touch()
                    os.kill(os.getpid(), signal.SIGKILL)

    torch.manual_seed(0)
    history = distiller.fit(
        writing.prompts([3, 1, 4, 1, 5, 9, 2, 6, 5, 3], LENGTH),
        batch_size=4,
        epochs=3,
        shuffle=False,
        verbose=0,
        callbacks=[
            Kill(),
            keras_skd.callbacks.BackupAndRestore(
                folder / "backup", save_freq=2
            ),
        ],
    )
    return {
        "history": json.dumps(history.history),
        **weights_of(distiller.student),
    }


TRAININGS = {
    "plain": ("speculative", "sequence_mean"),
    "accumulation": ("speculative", "sequence_mean", 2),
    "token_mean": ("schedule", "token_mean"),
    "micro_batches": ("schedule", "micro_batches"),
    "sum": ("mixture", "sum"),
    "teacher": ("speculative", "sequence_mean", None, "teacher_prompts"),
    "batch": ("mixture", "distillm2", None, "regularizer"),
    "lora": ("speculative", "sequence_mean", None, "lora"),
    # Columns of padding, which are not read.
    "padding": ("supervised", "token_mean", None, "padding"),
    # On given text: in bfloat16, rounding decides about tokens.
    "mixed_precision": ("supervised", "token_mean", None, "mixed_precision"),
}
OTHERS = {
    "refuse": refuse,
    "sample": sample,
    "differ": differ,
    "decide": decide,
    "killed": resume,
    "uninterrupted": functools.partial(resume, is_killed=False),
}


def main(folder, *names):
    folder = pathlib.Path(folder)
    rank = os.environ.get("RANK", "alone")
    for name in names:
        if name in TRAININGS:
            result = train(*TRAININGS[name])
        else:
            (folder / name).mkdir(exist_ok=True)
            result = OTHERS[name](folder / name)
        np.savez(folder / f"{name}-{rank}.npz", **result)


if __name__ == "__main__":
    main(*sys.argv[1:])
