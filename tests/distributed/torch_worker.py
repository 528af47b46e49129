"""Trainings that do the same in one process and in several.

    torchrun --nproc-per-node 2 -m tests.distributed.torch_worker FOLDER NAMES

Each process writes the history and the weights of each to a file.
"""

import json
import os
import pathlib
import sys

import keras
import numpy as np

import keras_skd
from tests.support import distillers

# The last of the batches of 4 has 2 rows: too few for 4 processes.
BATCH_SIZE = 4
EPOCHS = 3
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
        "There was",
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
        " nothing",
    ],
}
VALIDATION = {key: column[:3] for key, column in DATA.items()}


def rollouts_of():
    speculative = distillers.speculative
    schedules = keras_skd.schedules
    return {
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
        "token_mean": dict(loss=losses.ReverseKL(reduction="token_mean")),
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


def trainings():
    """Name -> (rollout, arguments of `compile`, steps to accumulate)."""
    rollouts, losses = rollouts_of(), objectives()
    return {
        "plain": (rollouts["speculative"], losses["sequence_mean"], None),
        "accumulation": (rollouts["speculative"], losses["sequence_mean"], 2),
        "token_mean": (rollouts["schedule"], losses["token_mean"], None),
        "sum": (rollouts["mixture"], losses["sum"], None),
        "batch": (rollouts["mixture"], losses["distillm2"], None),
    }


def train(rollout, objective, accumulation):
    teacher, student = distillers.models()
    distiller = keras_skd.Distiller(teacher, student, rollout, seed=0)
    distiller.compile(
        optimizer=keras.optimizers.SGD(
            0.05, momentum=0.5, gradient_accumulation_steps=accumulation
        ),
        **objective,
    )
    history = distiller.fit(
        DATA,
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
    return {
        "history": json.dumps(logs),
        "step": int(distiller.training_step),
        **{
            f"{i} {v.path}": keras.ops.convert_to_numpy(v)
            for i, v in enumerate(student.weights)
        },
    }


def main(folder, *names):
    rank = os.environ.get("RANK", "alone")
    for name in names or trainings():
        result = train(*trainings()[name])
        np.savez(pathlib.Path(folder) / f"{name}-{rank}.npz", **result)


if __name__ == "__main__":
    main(*sys.argv[1:])
