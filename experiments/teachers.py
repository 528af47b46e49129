"""Teachers: trained on the whole train split, and kept.

    python -m experiments.teachers pronunciation translation arithmetic

prints how good each is on the development and the test split.
"""

import argparse
import json
import os
import shutil
import time

import keras_hub

from experiments import models
from experiments import training
from experiments.cache import FOLDER
from experiments.tasks import TASKS

# The teacher is the same for every student.
SEED = 1000
STEPS = {
    "full": dict(batch_size=128, learning_rate=2e-3),
    "small": dict(num_steps=600, batch_size=128, learning_rate=3e-3),
}


def load(task, scale):
    """Loads the teacher of a task, after training it if there is none."""
    folder = FOLDER / f"{task.name}-{scale}-teacher"
    if not folder.exists():
        train(task, scale, folder)
    return keras_hub.models.CausalLM.from_preset(str(folder))


def train(task, scale, folder):
    """Trains a teacher, scores it, and saves both as a preset."""
    teacher = models.make(task, "teacher", scale, task.tokenizer(), SEED)
    steps = {"num_steps": task.teacher_steps, **STEPS[scale]}
    start = time.perf_counter()
    print(f"Training the teacher of {task.name}: {steps}", flush=True)
    training.fine_tune(
        teacher,
        task.train,
        seed=SEED,
        backup=folder.with_suffix(".backup"),
        **steps,
    )
    facts = {
        "task": task.name,
        "scale": scale,
        "parameters": teacher.count_params(),
        **steps,
        # Of the last start, if it was killed and went on.
        "seconds": round(time.perf_counter() - start, 1),
    }
    writer = training.Writer(teacher)
    for name in ("development", "test"):
        scores = task.score(task.splits[name], writer(task.splits[name]))
        facts[name] = {task.metric: scores.percent, **scores.others}
    unfinished = folder.with_suffix(".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    teacher.save_to_preset(str(unfinished))
    (unfinished / "facts.json").write_text(json.dumps(facts))
    os.replace(unfinished, folder)


def facts(task, scale):
    """What is known about a trained teacher."""
    folder = FOLDER / f"{task.name}-{scale}-teacher"
    if not folder.exists():
        train(task, scale, folder)
    return json.loads((folder / "facts.json").read_text())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tasks", nargs="+", choices=TASKS)
    parser.add_argument("--scale", choices=models.WIDTHS, default="full")
    args = parser.parse_args()
    for name in args.tasks:
        print(json.dumps(facts(TASKS[name], args.scale)), flush=True)
