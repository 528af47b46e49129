"""Measures TRL's `DistillationTrainer`: on-policy updates of four batches.

    .venv-peers/bin/python benchmarks/trl_distillation.py --shape small

`run.py` starts it. The student alone writes, all rows of an update at once; the
loss is the forward KL divergence (beta = 0).
"""

import dataclasses
import time

import transformers
from datasets import Dataset
from peers import make_models
from peers import training_arguments
from shapes import SEED
from shapes import SHAPES
from timing import emit
from trl import DistillationConfig
from trl import DistillationTrainer
from trl_gkd import main
from trl_gkd import make_tokenizer
from trl_gkd import words

NUM_BATCHES = 4


class Emit(transformers.TrainerCallback):
    """Prints a record of each update."""

    def __init__(self, name, shape):
        self.name, self.shape = name, shape

    def on_step_begin(self, args, state, control, **kwargs):
        self._start = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        phases = {1: "first", 2: "warm-up"}
        emit(
            measurement=f"TRL DistillationTrainer update, {self.name}",
            seconds=time.perf_counter() - self._start,
            phase=phases.get(state.global_step, "counted"),
            shape=self.shape,
            backend="peers",
        )


def train(name, shape_name, repeats, directory, **arguments):
    """Trains on the same prompts again and again."""
    shape = SHAPES[shape_name]
    rows = NUM_BATCHES * shape.batch_size
    prompts = dataclasses.replace(shape, batch_size=rows).prompts().tolist()
    steps = repeats + 2
    trainer = DistillationTrainer(
        **make_models(shape),
        args=DistillationConfig(
            output_dir=directory,
            max_steps=steps,
            per_device_train_batch_size=shape.batch_size,
            gradient_accumulation_steps=NUM_BATCHES,
            max_completion_length=shape.num_new_tokens,
            beta=0.0,
            learning_rate=1e-5,
            **training_arguments(shape),
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            seed=SEED,
            **arguments,
        ),
        train_dataset=Dataset.from_dict(
            {"prompt": [words(prompt) for prompt in prompts * steps]}
        ),
        processing_class=make_tokenizer(shape.vocabulary_size),
        callbacks=[Emit(name, shape_name)],
    )
    # The tokenizer must have an end token, but no text may end early.
    trainer.model.generation_config.eos_token_id = None
    trainer.generation_config.eos_token_id = None
    trainer.eos_token_ids = [-1]
    trainer.train()


if __name__ == "__main__":
    main(train, __doc__)
