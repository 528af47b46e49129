"""Trains on one device and on several, in a process of its own.

TensorFlow reads the number of devices when it starts. A strategy must be the
only one of its process, as the collectives of two would meet.

Run it with `python -m tests.distributed.tensorflow_worker 2 CASE ...`, or with
`workers` for 2 in each process that `TF_CONFIG` names. The last line of the
output is JSON: for each case, the largest differences from one device.
"""

import json
import os
import sys
import tempfile

import keras
import keras_hub
import numpy as np
import tensorflow as tf

import keras_skd
from keras_skd import losses
from keras_skd import rollouts
from keras_skd import schedules
from keras_skd._backend import is_first_process
from keras_skd._objective import widths
from tests.support.writing import random_causal_lm

LENGTH = 16
K = 8
# As the fixture `one_draft_length`.
rollouts._speculative._CHOICES = (2,)


def greedy(**kwargs):
    return rollouts.Speculative(
        **{
            "acceptance": keras_skd.acceptance.TopK(K),
            "num_speculative_tokens": 2,
            "student_sampler": "greedy",
            "teacher_sampler": "greedy",
            **kwargs,
        }
    )


def random_rows(num_rows, seed=0):
    """Prompts of 2 to 5 tokens with responses, as token ids."""
    rng = np.random.default_rng(seed)
    position = np.arange(LENGTH)
    prompt = position < rng.integers(2, 6, (num_rows, 1))
    text = position < rng.integers(8, LENGTH + 1, (num_rows, 1))
    return {
        "token_ids": rng.integers(1, 32, text.shape).astype("int32") * text,
        "padding_mask": text,
        "response_mask": text & ~prompt,
    }


def padded(rows):
    """The same rows with columns of padding, which one device does not read."""
    widths._SHORT = 32
    return {k: np.pad(x, [(0, 0), (0, 48)]) for k, x in rows.items()}


def prompts_of(rows):
    prompt = rows["padding_mask"] & ~rows["response_mask"]
    return {"token_ids": rows["token_ids"] * prompt, "padding_mask": prompt}


# Five batches of four rows: the last one is a row short.
ROWS = random_rows(19)
# Each is a dict of callables, so that all is made in the strategy's scope.
CASES = {
    "speculative": {},
    "token_mean": {
        "rollout": rollouts.Supervised,
        "loss": lambda: losses.ForwardKL(reduction="token_mean"),
        "compile": lambda: {
            "rollout_metrics": ["kl_by_source", "loss_parts"],
            "weighted_metrics": [
                keras_hub.metrics.Perplexity(from_logits=True)
            ],
            "hidden_state_loss": losses.HiddenStateL1(),
        },
    },
    "micro_batches": {
        "rollout": rollouts.Supervised,
        "loss": lambda: losses.ForwardKL(reduction="token_mean"),
        "compile": lambda: {
            "micro_batch_size": 1,
            "rollout_metrics": ["kl_by_source", "loss_parts"],
            "hidden_state_loss": losses.HiddenStateL1(),
        },
    },
    "padding": {
        "rollout": rollouts.Supervised,
        "loss": lambda: losses.ForwardKL(reduction="token_mean"),
        "x": lambda: padded(ROWS),
    },
    "sum": {
        "rollout": rollouts.Supervised,
        "loss": lambda: losses.WeightedSum(
            ["forward_kl", "cross_entropy"], [0.5, 0.5], reduction="sum"
        ),
        "compile": lambda: {"rollout_metrics": ["loss_parts"]},
    },
    "distillm2": {
        "rollout": rollouts.Supervised,
        "loss": lambda: losses.DistiLLM2(5, 2),
    },
    "steps_per_execution": {
        "rollout": rollouts.Supervised,
        "compile": lambda: {"steps_per_execution": 2},
    },
    "eagerly": {
        "rollout": rollouts.Supervised,
        "compile": lambda: {"run_eagerly": True},
    },
    # The last batch has one row, and all but one device none.
    "one_row": {"rollout": rollouts.Supervised, "x": lambda: random_rows(17)},
    "mixture": {
        "rollout": lambda: rollouts.Mixture(
            {
                "supervised": schedules.Linear(0.7, 0.3, 10),
                rollouts.Teacher("greedy"): 0.5,
            }
        ),
    },
    "lora": {
        "rollout": rollouts.Supervised,
        "adapt": lambda teacher, student: student.backbone.enable_lora(2),
    },
    "int8_teacher": {
        "rollout": rollouts.Supervised,
        "adapt": lambda teacher, student: teacher.quantize("int8"),
    },
    "mixed_bfloat16": {
        "rollout": rollouts.Supervised,
        "dtype": "mixed_bfloat16",
    },
    "schedule": {
        "rollout": lambda: greedy(
            acceptance=keras_skd.acceptance.TopK(schedules.Linear(12, 4, 10))
        ),
    },
}


def make_models(dtype="float32"):
    return [
        random_causal_lm("llama", seed=seed, num_layers=1, dtype=dtype)
        for seed in (1, 2)
    ]


def make(strategy, case, models=None):
    with strategy.scope():
        models = models or make_models(case.get("dtype", "float32"))
        case.get("adapt", lambda *models: None)(*models)
        teacher, student = models
        distiller = keras_skd.Distiller(
            teacher,
            student,
            case.get("rollout", greedy)(),
            stop_token_ids=(3, 4, 5),
            seed=0,
        )
        distiller.compile(
            case.get("optimizer", lambda: keras.optimizers.Adam(1e-3))(),
            case.get("loss", losses.ForwardKL)(),
            **case.get("compile", dict)(),
        )
    return distiller


class Logs(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.logs = []

    def on_train_batch_end(self, batch, logs=None):
        self.logs.append(dict(logs))


def train(strategy, case):
    """Ten steps. Returns the logs, by batch and epoch, and the weights."""
    distiller = make(strategy, case)
    start = student_weights(distiller)
    x = case.get("x", lambda: ROWS)()
    if not distiller.rollout.needs_responses:
        x = prompts_of(x)
    logs = Logs()
    history = distiller.fit(
        x,
        batch_size=4,
        epochs=2,
        shuffle=False,
        verbose=0,
        callbacks=[logs],
        validation_data=random_rows(3, seed=1),
        validation_freq=2,
    ).history
    weights = student_weights(distiller)
    return {
        "batches": [list(batch.values()) for batch in logs.logs],
        "epochs": list(history.values()),
        "weights": weights,
        "trained": [b - a for a, b in zip(start, weights)],
    }


def student_weights(distiller):
    return [keras.ops.convert_to_numpy(w) for w in distiller.student.weights]


def differences(one, several):
    """The largest difference of each kind of number. NaNs must be equal."""
    result = {"trained": max(np.abs(x).max() for x in one["trained"])}
    for key in ("batches", "epochs", "weights"):
        flat = [
            np.concatenate([np.ravel(x) for x in numbers[key]])
            for numbers in (one, several)
        ]
        is_nan = np.isnan(flat[0])
        assert (is_nan == np.isnan(flat[1])).all(), key
        result[key] = np.abs(flat[0] - flat[1])[~is_nan].max()
    return {key: float(value) for key, value in result.items()}


UPDATES = {"micro_batch_size": 1, "accumulate_gradients": False}


def checks(one, several):
    """What the differences do not show."""
    case = {"rollout": rollouts.OnPolicy}
    distillers = [make(strategy, case) for strategy in (one, several)]
    texts = [generate(distiller) for distiller in distillers]
    with several.scope():
        texts.append(generate(distillers[1]))
    return {
        "generate_is_equal": texts[0] == texts[1],
        "generates_in_scope": texts[0] == texts[2],
        "different_texts": different_texts(distillers[1]),
        "resumed_is_equal": resumed_is_equal(distillers[1]),
        "outside_of_scope": error_of(several, one, {}),
        "accumulation": error_of(
            several,
            several,
            {
                "optimizer": lambda: keras.optimizers.Adam(
                    gradient_accumulation_steps=2
                )
            },
        ),
        "updates": error_of(several, several, {"compile": lambda: UPDATES}),
    }


def generate(distiller):
    return distiller.generate(prompts_of(random_rows(3)), sampler="greedy")[
        "token_ids"
    ].tolist()


def smallest_margin():
    """By how much a logit must change for a different token, at the least."""
    distiller = make(tf.distribute.get_strategy(), {})
    rollout = distiller.generate_rollout(prompts_of(ROWS))
    predicts = rollout["response_mask"][:, 1:]
    inputs = {key: rollout[key] for key in ("token_ids", "padding_mask")}
    student, teacher = (
        keras.ops.convert_to_numpy(model(inputs))[:, :-1][predicts]
        for model in (distiller.student, distiller.teacher)
    )
    draft = np.take_along_axis(teacher, student.argmax(-1)[:, None], -1)
    ranked = np.sort(teacher)[:, ::-1]
    # A draft is accepted if its logit is above that of the next rank.
    is_accepted = draft >= ranked[:, K - 1 : K]
    limit = np.where(is_accepted, ranked[:, K : K + 1], ranked[:, K - 1 : K])
    best = [np.diff(np.sort(x)[:, -2:]) for x in (student, teacher)]
    return float(np.abs([draft - limit, *best]).min())


def different_texts(distiller):
    row = prompts_of(random_rows(1))
    rows = {key: np.repeat(value, 8, axis=0) for key, value in row.items()}
    written = [distiller.generate_rollout(rows) for _ in range(2)]
    return len({tuple(x) for w in written for x in w["token_ids"].tolist()})


class Interrupted(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        if batch == 3:
            raise KeyboardInterrupt


def resumed_is_equal(distiller):
    """Whether sampled training resumes with the weights it would have had."""
    x = prompts_of(ROWS)

    def fit(*callbacks):
        distiller.fit(
            x,
            batch_size=4,
            shuffle=False,
            verbose=0,
            callbacks=[*callbacks],
        )
        return student_weights(distiller)

    with tempfile.TemporaryDirectory() as folder:
        fit()  # Makes the optimizer's variables.
        start = f"{folder}/start.weights.h5"
        distiller.save_weights(start)
        uninterrupted = fit()
        distiller.load_weights(start)
        backup = keras_skd.callbacks.BackupAndRestore(folder, save_freq=2)
        try:
            fit(Interrupted(), backup)
        except KeyboardInterrupt:
            distiller.load_weights(start)
        resumed = fit(backup)
    return all((a == b).all() for a, b in zip(uninterrupted, resumed))


class Dies(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        if batch == 3:
            os._exit(1)


def resume(folder, dies=False):
    """Trains with a backup in a folder, with the last worker dying or not.

    Returns the weights' sum and that of their squares, which are as exact as
    the weights.
    """
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    distiller = make(strategy, {"rollout": rollouts.Supervised})
    callbacks = [keras_skd.callbacks.BackupAndRestore(folder, save_freq=2)]
    if dies and not is_first_process():
        callbacks.insert(0, Dies())
    distiller.fit(
        ROWS, batch_size=4, shuffle=False, verbose=0, callbacks=callbacks
    )
    flat = np.concatenate([np.ravel(w) for w in student_weights(distiller)])
    flat = flat.astype("float64")
    return {"sum": flat.sum(), "squares": (flat**2).sum()}


def error_of(strategy, strategy_of_distiller, case):
    """The message that `compile` or `fit` raises."""
    with strategy.scope():
        models = make_models()
    try:
        distiller = make(strategy_of_distiller, case, models)
        distiller.fit(prompts_of(ROWS), batch_size=4, verbose=0)
    except ValueError as error:
        return str(error)


def mirrored(num_devices):
    devices = [tf.config.LogicalDeviceConfiguration()] * num_devices
    cpu, *_ = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, devices)
    return tf.distribute.MirroredStrategy(
        [f"CPU:{i}" for i in range(num_devices)]
    )


def main(devices, names):
    one = tf.distribute.get_strategy()
    if devices == "workers":
        several = tf.distribute.MultiWorkerMirroredStrategy()
    else:
        several = mirrored(int(devices))
    results = {}
    for name in names:
        if name == "checks":
            results[name] = checks(one, several)
            continue
        if name == "smallest_margin":
            results[name] = smallest_margin()
            continue
        case = CASES[name]
        numbers = train(one, case) if is_first_process() else None
        numbers_of_several = train(several, case)
        if numbers is not None:
            results[name] = differences(numbers, numbers_of_several)
            print(name, results[name], flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    if sys.argv[1] == "resume":
        print(json.dumps(resume(sys.argv[2], dies=sys.argv[3:] == ["dies"])))
    else:
        main(sys.argv[1], sys.argv[2:])
