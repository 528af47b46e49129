"""The methods: a row of the table for each, a line of arguments.

Where a method is also a row of the README's table, its arguments are those.
"""

import typing

from keras_hub import samplers

from keras_skd import acceptance
from keras_skd import losses
from keras_skd import rollouts
from keras_skd import schedules


class Method(typing.NamedTuple):
    """One way to train a student.

    Args:
        label: str, its name in tables.
        rollout: str, the expression for `Distiller(rollout=...)`.
        loss: str, the expression for `Distiller.compile(loss=...)`.
        is_main: bool. Whether it gets all seeds before the others start.
        readme: str. Its row in the README, if it has one.
        rate_of: str. The method whose learning rate it uses, if it is not
            searched for.
        is_ablation: bool. Whether it is SKD with one thing changed: it has a
            table of its own, and is run under the first condition alone.
        only_task: str. The one task that it is run on, if not on all.
    """

    label: str
    rollout: str
    loss: str = '"forward_kl"'
    is_main: bool = False
    readme: str = ""
    rate_of: str = ""
    is_ablation: bool = False
    only_task: str = ""


def _skd(k, arguments=""):
    return f"rollouts.Speculative(acceptance.TopK({k}){arguments})"


def _sampling(label, arguments):
    """SKD with other samplers or drafts."""
    return Method(
        f"SKD, {label}",
        _skd("scaled_k", f", {arguments}"),
        rate_of="skd",
        is_ablation=True,
        only_task="pronunciation",
    )


def _loss(label, loss):
    """SKD with another loss, which needs a learning rate of its own."""
    return Method(
        f"SKD, {label}",
        _skd("scaled_k"),
        loss,
        is_ablation=True,
        only_task="pronunciation",
    )


_HALF_DATA = 'rollouts.Mixture({"supervised": 0.5, "on_policy": 0.5})'
KS = 1, 2, 5, 10, 25, 50
_COOL = "samplers.RandomSampler(temperature=0.5)"
# The teacher's in the paper's code, which draws the drafts with it as well.
_PUBLISHED = "samplers.TopPSampler(p=0.5, temperature=0.2)"

# In the order in which they run.
METHODS = {
    "skd": Method(
        "SKD, scaled K",
        _skd("scaled_k"),
        is_main=True,
    ),
    "supervised": Method(
        "supervised KD",
        '"supervised"',
        is_main=True,
        readme="Supervised KD",
    ),
    "on_policy": Method(
        "on-policy KD",
        '"on_policy"',
        is_main=True,
        readme="On-policy KD",
    ),
    "imitkd": Method(
        "ImitKD",
        _HALF_DATA,
        is_main=True,
        readme="ImitKD",
    ),
    "teacher_kl": Method("teacher writes, forward KL", '"teacher"'),
    "sft": Method(
        "SFT",
        '"supervised"',
        '"cross_entropy"',
        readme="Supervised fine-tuning",
    ),
    **{
        f"skd_{k}": Method(
            f"SKD, K = {k}", _skd(k), rate_of="skd", is_ablation=True
        )
        for k in KS
    },
    "gkd": Method(
        "GKD (0.5, 0.1)",
        _HALF_DATA,
        "losses.GeneralizedJSD(beta=0.1)",
        readme="GKD, λ = 0.5, β = 0.1",
    ),
    "two_stage": Method(
        "two-stage KD",
        'rollouts.Switch("supervised", "on_policy", at_step=num_steps // 2)',
        readme="Two-stage KD",
    ),
    "seqkd": Method(
        "SeqKD",
        '"teacher"',
        '"cross_entropy"',
        readme="Sequence-level KD",
    ),
    "skd_greedy": Method(
        "SKD, greedy replacement",
        _skd("scaled_k", ', teacher_sampler="greedy"'),
    ),
    "skd_mixed": Method(
        "SKD, mixed with data",
        f'rollouts.Mixture({{{_skd("scaled_k")}: 0.5, "supervised": 0.5}})',
    ),
    "ca_opd": Method(
        "CA-OPD",
        "rollouts.Speculative(acceptance.ProbabilityFloor("
        'schedules.Cosine(0.5, 0.25, num_steps)), teacher_sampler="greedy")',
        "losses.BySource("
        "student=losses.ForwardKL(), teacher=losses.CrossEntropy())",
        readme="CA-OPD",
    ),
    "ipd": Method(
        "IPD",
        "rollouts.Speculative(acceptance.Interpolated(0.1))",
        "losses.BySource("
        "student=losses.ReverseKL(), teacher=losses.CrossEntropy())",
        readme="IPD",
    ),
    "distillm2": Method(
        "DistiLLM-2",
        'rollouts.Mixture({"teacher": 0.5, "on_policy": 0.5})',
        "losses.DistiLLM2(steps_per_epoch, epochs)",
        readme="DistiLLM-2",
    ),
    "skd_cool_student": _sampling(
        "student at temperature 0.5", f"student_sampler={_COOL}"
    ),
    "skd_cool_teacher": _sampling(
        "teacher at temperature 0.5", f"teacher_sampler={_COOL}"
    ),
    "skd_published": _sampling(
        "both at temperature 0.2, top-p 0.5",
        f"student_sampler={_PUBLISHED}, teacher_sampler={_PUBLISHED}",
    ),
    "skd_one_draft": _sampling(
        "one draft at a time", "num_speculative_tokens=1"
    ),
    "skd_reverse": _loss("reverse KL", '"reverse_kl"'),
    "skd_jsd": _loss("JSD", "losses.GeneralizedJSD(beta=0.5)"),
    "skd_skew": _loss("skew KL", "losses.SkewKL(0.1)"),
}


def arguments(method, scaled_k, num_steps, steps_per_epoch):
    """Evaluates the arguments of a method for one task and size.

    Returns:
        A pair of the rollout and the loss: objects, or names.
    """
    names = {
        "acceptance": acceptance,
        "losses": losses,
        "rollouts": rollouts,
        "samplers": samplers,
        "schedules": schedules,
        "scaled_k": scaled_k,
        "num_steps": num_steps,
        "steps_per_epoch": steps_per_epoch,
        "epochs": -(-num_steps // steps_per_epoch),
    }
    rollout, loss = (
        eval(expression, names) for expression in (method.rollout, method.loss)
    )
    return rollouts.get(rollout), losses.get(loss)
