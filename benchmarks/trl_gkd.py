"""Measures TRL's GKD: on-policy steps, and the rollouts in them.

    .venv-peers/bin/python benchmarks/trl_gkd.py --shape small

`run.py` starts it. The student alone writes (lambda = 1), the loss is the
forward KL divergence (beta = 0).
"""

import argparse
import tempfile
import time

import tokenizers
import transformers
from datasets import Dataset
from peers import make_models
from peers import training_arguments
from shapes import PADDING_ID
from shapes import SEED
from shapes import SHAPES
from shapes import STOP_ID
from timing import emit
from timing import emit_versions
from trl.experimental.gkd import GKDConfig
from trl.experimental.gkd import GKDTrainer


class TimedTrainer(GKDTrainer):
    """Times the last rollout, and checks its shape."""

    shape = None
    rollout_seconds = None

    @staticmethod
    def generate_on_policy_outputs(model, inputs, generation_config):
        start = time.perf_counter()
        outputs = GKDTrainer.generate_on_policy_outputs(
            model, inputs, generation_config
        )
        TimedTrainer.rollout_seconds = time.perf_counter() - start
        # No row was shorter, or stopped.
        assert outputs[0].shape == TimedTrainer.shape
        assert outputs[1].all()
        return outputs


class Emit(transformers.TrainerCallback):
    """Prints a record of each step and of its rollout."""

    def __init__(self, name, shape):
        self.name, self.shape = name, shape

    def on_step_begin(self, args, state, control, **kwargs):
        self._start = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        seconds = time.perf_counter() - self._start
        labels = {
            "phase": {1: "first", 2: "warm-up"}.get(
                state.global_step, "counted"
            ),
            "shape": self.shape,
            "backend": "peers",
        }
        emit(
            measurement=f"TRL GKD step, {self.name}", seconds=seconds, **labels
        )
        emit(
            measurement=f"TRL GKD rollout, {self.name}",
            seconds=TimedTrainer.rollout_seconds,
            **labels,
        )


def make_tokenizer(vocabulary_size):
    """A tokenizer with one word for each token, which the trainer requires."""
    words = {f"w{i}": i for i in range(2, vocabulary_size)}
    words.update({"<pad>": PADDING_ID, "<stop>": STOP_ID})
    model = tokenizers.models.WordLevel(words, unk_token="<pad>")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<stop>",
        padding_side="left",
        chat_template="{% for m in messages %}{{ m.content }} {% endfor %}",
    )


def train(name, shape_name, repeats, directory, **arguments):
    """Trains on one batch again and again."""
    shape = SHAPES[shape_name]
    TimedTrainer.shape = shape.batch_size, shape.sequence_length
    tokenizer = make_tokenizer(shape.vocabulary_size)
    prompts = shape.prompts().tolist()
    steps = repeats + 2
    dataset = Dataset.from_dict(
        {
            "messages": [
                [
                    {"role": "user", "content": words(prompt)},
                    {"role": "assistant", "content": words([2])},
                ]
                for prompt in prompts * steps
            ]
        }
    )
    trainer = TimedTrainer(
        **make_models(shape),
        args=GKDConfig(
            output_dir=directory,
            max_steps=steps,
            per_device_train_batch_size=shape.batch_size,
            max_new_tokens=shape.num_new_tokens,
            lmbda=1.0,
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
        train_dataset=dataset,
        processing_class=tokenizer,
        callbacks=[Emit(name, shape_name)],
    )
    # The tokenizer must have an end token, but no text may end early.
    trainer.model.generation_config.eos_token_id = None
    trainer.generation_config.eos_token_id = None
    trainer.train()


def words(token_ids):
    return " ".join(f"w{i}" for i in token_ids)


def main(train, description):
    """Trains at the best setting, and at the defaults."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--shape", default="small", choices=SHAPES)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    emit_versions("torch", "transformers", "trl", backend="peers")
    with tempfile.TemporaryDirectory() as directory:
        for name, arguments in (
            ("no checkpointing", {"gradient_checkpointing": False}),
            ("defaults", {}),
        ):
            train(name, args.shape, args.repeats, directory, **arguments)


if __name__ == "__main__":
    main(train, __doc__)
