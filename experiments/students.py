"""Initial students: random, pretrained on easier items, or fine-tuned.

The same seed gives every method the same initial student. Those that take a
training are kept.
"""

import os

from experiments import models
from experiments import training
from experiments.cache import FOLDER

INITS = "random", "pretrained", "sft"
# Enough to write the task's language, and not enough to be good at the task.
PRETRAINING = dict(num_steps=300, batch_size=32, learning_rate=3e-3)
FINE_TUNING = dict(num_steps=192, batch_size=32, learning_rate=1e-3)


def initialise(student, task, scale, init, size, seed):
    """Sets the weights of a student to those that its training starts from.

    Args:
        student: the causal LM, of any weights.
        task: a `Task`.
        scale: `"full"` or `"small"`.
        init: `"random"`; `"pretrained"`, on the easier items of the train
            split (the task says which), and none that a student is distilled
            on; or `"sft"`, then fine-tuned on the pairs that it is distilled
            on.
        size: int, the number of these.
        seed: int.
    """
    if init == "random":
        tokenizer = student.preprocessor.tokenizer
        new = models.make(task, "student", scale, tokenizer, seed)
        student.set_weights(new.get_weights())
        return
    name = f"{init}-{size}" if init == "sft" else init
    path = FOLDER / f"{task.name}-{scale}-{name}-{seed}.weights.h5"
    if not path.exists():
        if init == "sft":
            initialise(student, task, scale, "pretrained", size, seed)
            pairs, arguments = task.prompts(size), FINE_TUNING
        else:
            initialise(student, task, scale, "random", size, seed)
            pairs, arguments = task.easy_pairs, PRETRAINING
        training.fine_tune(student, pairs, seed=seed, **arguments)
        # Two processes may make the same one at a time.
        unfinished = path.with_name(f"{os.getpid()}-{path.name}")
        student.save_weights(unfinished)
        os.replace(unfinished, path)
    student.load_weights(path)
