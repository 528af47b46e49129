"""Measures Transformers' assisted generation with SKD's acceptance rule.

    .venv-peers/bin/python benchmarks/assisted_generation.py --shape small

`run.py` starts it. This is the engine of SKD's official sampler: it takes one
prompt at a time, and five drafts a round. The rule accepts drafts among the
teacher's `k` likeliest tokens, replaces the first rejected one by a sample of
the teacher, and adds no bonus token.
"""

import argparse

import torch
from peers import make_model
from shapes import SHAPES
from timing import emit_versions
from timing import interleave
from timing import timed
from transformers.generation import utils


def top_k(k, counts):
    """SKD's rule in place of the one of lossless speculative decoding."""

    def choose(candidate_input_ids, _, num_drafts, logits, **kwargs):
        drafts = candidate_input_ids[:, -num_drafts:]
        logits = logits[:, :num_drafts]  # Without the place after them.
        at_draft = torch.gather(logits, -1, drafts[..., None])
        accepted = (logits > at_draft).sum(-1) < k
        num_accepted = int(accepted.long().cumprod(-1).sum())
        tokens = drafts[:, :num_accepted]
        counts["accepted"] += num_accepted
        if num_accepted < num_drafts:
            counts["rejected"] += 1
            probabilities = logits[:, num_accepted].softmax(-1)
            replacement = torch.multinomial(probabilities, 1)
            tokens = torch.cat([tokens, replacement], dim=-1)
        return tokens, num_accepted

    return choose


def rollouts(shape, k):
    """A measurement of one rollout after another for the prompts of a batch."""
    teacher = make_model(shape, shape.teacher).eval()
    student = make_model(shape, shape.student).eval()
    student.generation_config.num_assistant_tokens = 5
    student.generation_config.num_assistant_tokens_schedule = "constant"
    student.generation_config.assistant_confidence_threshold = 0.0
    prompts = torch.tensor(shape.prompts())
    counts = {"accepted": 0, "rejected": 0}
    rule = top_k(k, counts)

    def write():
        counts.update(accepted=0, rejected=0)
        utils._speculative_sampling = rule
        for prompt in prompts:
            written = teacher.generate(
                prompt[None],
                attention_mask=torch.ones_like(prompt[None]),
                assistant_model=student,
                do_sample=True,
                top_k=0,
                max_new_tokens=shape.num_new_tokens,
            )
            assert written.shape[1] == shape.sequence_length

    def measure():
        record = timed(write)()
        tested = counts["accepted"] + counts["rejected"]
        return {**record, "acceptance_rate": counts["accepted"] / tested}

    return measure


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", default="small", choices=SHAPES)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    emit_versions("torch", "transformers", backend="peers")
    torch.manual_seed(0)
    shape = SHAPES[args.shape]
    interleave(
        {
            "assisted generation, every draft accepted": rollouts(
                shape, shape.vocabulary_size
            ),
            "assisted generation, K = 25": rollouts(shape, 25),
        },
        args.repeats,
        shape=args.shape,
        backend="peers",
    )


if __name__ == "__main__":
    main()
