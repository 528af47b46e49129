"""Published methods, and the arguments for them.

`python -m tests.support.methods` prints the README's table. `num_steps`,
`steps_per_epoch` and `epochs` are those of the training; `newline` is the id of
a token that ends a segment, and `threshold` the lowest mean log-probability to
the teacher of an accepted segment.
"""

import typing


class Method(typing.NamedTuple):
    """The arguments for one method.

    Args:
        paper: str. A link, in Markdown.
        writes: str. Who writes the responses.
        rollout: str. The expression for `Distiller(rollout=...)`.
        compile: str. The arguments of `Distiller.compile`.
    """

    paper: str
    writes: str
    rollout: str
    compile: str


METHODS = {
    "Supervised fine-tuning": Method(
        "",
        "data",
        '"supervised"',
        'loss="cross_entropy"',
    ),
    "Sequence-level KD": Method(
        "[Kim & Rush, 2016](https://arxiv.org/abs/1606.07947)",
        "teacher",
        '"teacher"',
        'loss="cross_entropy"',
    ),
    "Supervised KD": Method(
        "[Hinton et al., 2015](https://arxiv.org/abs/1503.02531)",
        "data",
        '"supervised"',
        'loss="forward_kl"',
    ),
    "ImitKD": Method(
        "[Lin et al., 2020](https://arxiv.org/abs/2009.07253)",
        "data, student",
        'rollouts.Mixture({"supervised": 0.5, "on_policy": 0.5})',
        'loss="forward_kl"',
    ),
    "On-policy KD": Method(
        "[Agarwal et al., 2023](https://arxiv.org/abs/2306.13649)",
        "student",
        '"on_policy"',
        'loss="forward_kl"',
    ),
    "GKD, λ = 0.5, β = 0.1": Method(
        "[Agarwal et al., 2023](https://arxiv.org/abs/2306.13649)",
        "data, student",
        'rollouts.Mixture({"supervised": 0.5, "on_policy": 0.5})',
        "loss=losses.GeneralizedJSD(beta=0.1)",
    ),
    "Two-stage KD": Method(
        "[Xu et al., 2024](https://arxiv.org/abs/2410.11325), 5.5",
        "data, then student",
        'rollouts.Switch("supervised", "on_policy", at_step=num_steps // 2)',
        'loss="forward_kl"',
    ),
    "Speculative KD (SKD)": Method(
        "[Xu et al., 2024](https://arxiv.org/abs/2410.11325)",
        "student, teacher",
        "rollouts.Speculative(acceptance.TopK(25))",
        'loss="forward_kl"',
    ),
    "SKD, mixed with data": Method(
        "its code",
        "data, student, teacher",
        'rollouts.Mixture({"speculative": 0.5, "supervised": 0.5})',
        'loss="forward_kl"',
    ),
    "SKD, adaptive K": Method(
        "its appendix C",
        "student, teacher",
        "rollouts.Speculative("
        "acceptance.TopK(schedules.Linear(50, 5, num_steps)))",
        'loss="forward_kl"',
    ),
    "CA-OPD": Method(
        "[2609.02401](https://arxiv.org/abs/2609.02401)",
        "student, teacher",
        "rollouts.Speculative(acceptance.ProbabilityFloor("
        'schedules.Cosine(0.5, 0.25, num_steps)), teacher_sampler="greedy")',
        "loss=losses.BySource("
        "student=losses.ForwardKL(), teacher=losses.CrossEntropy())",
    ),
    "IPD": Method(
        "",
        "student, teacher",
        "rollouts.Speculative(acceptance.Interpolated(0.1))",
        "loss=losses.BySource("
        "student=losses.ReverseKL(), teacher=losses.CrossEntropy())",
    ),
    "DistiLLM": Method(
        "[Ko et al., 2024](https://arxiv.org/abs/2402.03898)",
        "data, student",
        'rollouts.Mixture({"supervised": 0.5, "on_policy": 0.5})',
        "loss=losses.SkewKL(0.1)",
    ),
    "DistiLLM-2": Method(
        "[Ko et al., 2025](https://arxiv.org/abs/2503.07067)",
        "student, teacher",
        'rollouts.Mixture({"teacher": 0.5, "on_policy": 0.5})',
        "loss=losses.DistiLLM2(steps_per_epoch, epochs)",
    ),
    "MiniLLM's teacher-mixed sampling": Method(
        "[Gu et al., 2023](https://arxiv.org/abs/2306.08543)",
        "student, teacher",
        "rollouts.Speculative(acceptance.Interpolated(0.2))",
        'loss="reverse_kl"',
    ),
    'Deep context distillation, on `"teacher_prompts"`': Method(
        "[Caccia et al., 2025](https://arxiv.org/abs/2503.08727)",
        "teacher",
        '"teacher"',
        'loss="forward_kl", hidden_state_loss=losses.HiddenStateL1()',
    ),
    "Speculative data synthesis": Method(
        "[Zhang et al., 2025](https://arxiv.org/abs/2502.07942)",
        "student, teacher",
        "rollouts.Segments((newline,), threshold)",
        'loss="cross_entropy"',
    ),
}


def markdown():
    """The README's table, a line for each method."""
    lines = [
        "| method | paper | who writes | `rollout` | `compile` |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, method in METHODS.items():
        code = f"`{method.rollout}` | `{method.compile}`"
        lines.append(f"| {name} | {method.paper} | {method.writes} | {code} |")
    return lines


if __name__ == "__main__":
    print("\n".join(markdown()))
