import json
import re

import keras
import numpy as np
import pytest

from keras_skd import losses
from keras_skd.losses._distillation_loss import registry

NAMES = {
    "adaptive_kl": losses.AdaptiveKL,
    "cross_entropy": losses.CrossEntropy,
    "forward_kl": losses.ForwardKL,
    "generalized_jsd": losses.GeneralizedJSD,
    "reverse_kl": losses.ReverseKL,
    "skew_kl": losses.SkewKL,
    "skew_reverse_kl": losses.SkewReverseKL,
    "total_variation": losses.TotalVariation,
}
COMMON = {
    "temperature": 2.0,
    "source_weights": {"student": 0.5, "data": 2.0},
    "reduction": "token_mean",
    "name": "mine",
    "dtype": "float64",
}
# Every argument of every class, with a value other than its default.
CONFIGS = {
    losses.ForwardKL: {**COMMON, "top_k_targets": 3},
    losses.ReverseKL: {**COMMON, "top_k_targets": 3},
    losses.GeneralizedJSD: {**COMMON, "top_k_targets": 3, "beta": 0.25},
    losses.SkewKL: {**COMMON, "top_k_targets": 3, "alpha": 0.25},
    losses.SkewReverseKL: {
        **COMMON,
        "top_k_targets": 3,
        "alpha": 0.25,
        "stop_gradient_mixture": True,
    },
    losses.TotalVariation: {**COMMON, "top_k_targets": 3},
    losses.AdaptiveKL: {**COMMON, "top_k_targets": 3, "head_mass": 0.25},
    losses.CrossEntropy: COMMON,
    losses.DistiLLM2: {
        **COMMON,
        "top_k_targets": 3,
        "steps_per_epoch": 10,
        "epochs": 4,
        "alpha": 0.25,
        "min_alpha": 0.125,
        "beta": 0.75,
        "stop_gradient_mixture": True,
    },
}


@pytest.mark.parametrize("cls", CONFIGS, ids=lambda cls: cls.__name__)
def test_round_trip_keeps_every_argument(cls):
    loss = cls(**CONFIGS[cls])
    assert loss.get_config() == CONFIGS[cls]
    config = json.loads(json.dumps(losses.serialize(loss)))
    for restored in (
        losses.deserialize(config),
        losses.get(config),
        keras.saving.deserialize_keras_object(config),
        cls.from_config(loss.get_config()),
    ):
        assert type(restored) is cls
        assert restored.get_config() == CONFIGS[cls]


def test_round_trip_of_combinations():
    loss = losses.WeightedSum(
        [
            losses.BySource(
                student=losses.SkewReverseKL(alpha=0.25),
                teacher=losses.SkewKL(alpha=0.5),
                reduction="sum",
            ),
            losses.CrossEntropy(temperature=3.0),
        ],
        weights=[1.0, 0.5],
        source_weights={"data": 0.0},
        reduction="token_mean",
        name="mine",
    )
    config = json.loads(json.dumps(losses.serialize(loss)))
    restored = losses.get(config)
    assert losses.serialize(restored) == losses.serialize(loss)
    assert restored.losses[0].losses["student"].alpha == 0.25
    assert restored.losses[0].losses["teacher"].alpha == 0.5
    # By default, the data's loss is the teacher's.
    assert restored.losses[0].losses["data"].alpha == 0.5
    assert restored.losses[0].reduction == "sum"
    assert restored.losses[1].temperature == 3.0
    assert restored.weights == [1.0, 0.5]
    assert restored.source_weights == {"data": 0.0}
    assert (restored.reduction, restored.name) == ("token_mean", "mine")


@pytest.mark.parametrize("name", NAMES)
def test_get_by_name_and_class(name):
    loss = losses.get(name)
    assert type(loss) is NAMES[name]
    assert loss.name == name
    assert type(losses.get(NAMES[name])) is NAMES[name]
    assert losses.get(loss) is loss


# Losses that cannot be made from their name, and what to write instead.
NEED_ARGUMENTS = {
    "weighted_sum": "WeightedSum(losses=...)",
    "by_source": 'BySource(student="reverse_kl", teacher="forward_kl")',
    "distillm2": "DistiLLM2(steps_per_epoch=..., epochs=...)",
}


@pytest.mark.parametrize("name", NEED_ARGUMENTS)
def test_a_name_that_needs_arguments_says_what_to_write(name):
    with pytest.raises(ValueError, match=re.escape(NEED_ARGUMENTS[name])):
        losses.get(name)


def test_every_loss_has_a_name():
    classes = {
        value
        for value in vars(losses).values()
        if isinstance(value, type)
        and issubclass(value, losses.DistillationLoss)
    }
    bases = {losses.DistillationLoss, losses.Divergence}
    assert classes - bases == set(registry.classes.values())
    assert set(registry.classes) == {*NAMES, *NEED_ARGUMENTS}


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (losses.ForwardKL(), "ForwardKL()"),
        (
            losses.SkewKL(0.25, temperature=2, reduction="sum"),
            "SkewKL(reduction='sum', temperature=2.0, alpha=0.25)",
        ),
        (
            losses.WeightedSum(["reverse_kl", losses.CrossEntropy()]),
            "WeightedSum(losses=[ReverseKL(), CrossEntropy()], "
            "weights=[1.0, 1.0])",
        ),
        (
            losses.BySource(teacher="skew_kl", name="mine"),
            "BySource(name='mine', teacher=SkewKL())",
        ),
        (
            losses.DistiLLM2(10, 3, source_weights={"data": 0}),
            "DistiLLM2(source_weights={'data': 0.0}, steps_per_epoch=10, "
            "epochs=3)",
        ),
        (losses.HiddenStateL1(weight=0.5), "HiddenStateL1(weight=0.5)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_repr_is_one_line(loss, expected):
    assert repr(loss) == expected


@keras.saving.register_keras_serializable(package="keras_skd_tests")
class Custom(losses.Divergence):
    def divergence(self, teacher_log_probs, student_log_probs):
        return keras.ops.sum(teacher_log_probs - student_log_probs, axis=-1)


def test_custom_loss():
    loss = Custom(temperature=2.0)
    restored = losses.get(losses.serialize(loss))
    assert type(restored) is Custom and restored.temperature == 2.0
    assert type(losses.get(Custom)) is Custom
    mixed = losses.get(losses.serialize(losses.WeightedSum([loss])))
    assert type(mixed.losses[0]) is Custom


def test_unknown_name_lists_the_names_and_the_closest():
    with pytest.raises(ValueError) as error:
        losses.get("foward_kl")
    assert "Did you mean 'forward_kl'?" in str(error.value)
    assert all(name in str(error.value) for name in NAMES)


@pytest.mark.parametrize(
    "loss",
    [
        keras.losses.KLDivergence(),
        keras.losses.KLDivergence,
        keras.losses.serialize(keras.losses.KLDivergence()),
    ],
    ids=["object", "class", "config"],
)
def test_keras_losses_are_refused_with_the_reason(loss):
    with pytest.raises(TypeError, match="KLDivergence.*mask.*1e-7"):
        losses.get(loss)


@pytest.mark.parametrize(
    "wrong", [None, 3, object(), [losses.ForwardKL()], int]
)
def test_other_types_are_refused(wrong):
    with pytest.raises(TypeError, match="DistillationLoss"):
        losses.get(wrong)


@pytest.mark.parametrize(
    ("cls", "kwargs", "error"),
    [
        (losses.ForwardKL, {"temperature": 0}, ValueError),
        (losses.ForwardKL, {"temperature": -1.0}, ValueError),
        (losses.ForwardKL, {"temperature": float("inf")}, ValueError),
        (losses.ForwardKL, {"temperature": float("nan")}, ValueError),
        (losses.ForwardKL, {"temperature": "1"}, TypeError),
        (losses.ForwardKL, {"temperature": True}, TypeError),
        (losses.ForwardKL, {"top_k_targets": 0}, ValueError),
        (losses.ForwardKL, {"top_k_targets": -3}, ValueError),
        (losses.ForwardKL, {"top_k_targets": 2.5}, TypeError),
        (losses.ForwardKL, {"reduction": "mean"}, ValueError),
        (losses.ForwardKL, {"reduction": "batch_mean"}, ValueError),
        (losses.ForwardKL, {"dtype": "float16"}, ValueError),
        (losses.ForwardKL, {"source_weights": {"expert": 1}}, ValueError),
        (losses.ForwardKL, {"source_weights": {"student": -1}}, ValueError),
        (losses.ForwardKL, {"source_weights": {"student": None}}, TypeError),
        (losses.ForwardKL, {"source_weights": [1, 2]}, TypeError),
        (losses.GeneralizedJSD, {"beta": -0.1}, ValueError),
        (losses.GeneralizedJSD, {"beta": 1.1}, ValueError),
        (losses.SkewKL, {"alpha": -0.1}, ValueError),
        (losses.SkewKL, {"alpha": 1.0}, ValueError),
        (losses.SkewReverseKL, {"alpha": -0.1}, ValueError),
        (losses.SkewReverseKL, {"alpha": 1.0}, ValueError),
        (losses.AdaptiveKL, {"head_mass": 0}, ValueError),
        (losses.AdaptiveKL, {"head_mass": 1}, ValueError),
        (losses.CrossEntropy, {"temperature": 0}, ValueError),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_bad_arguments_are_named_and_shown(cls, kwargs, error):
    (name, value), *_ = kwargs.items()
    if isinstance(value, dict):
        value = next(iter(value.items()))[-1 if error is TypeError else 0]
    with pytest.raises(error) as raised:
        cls(**kwargs)
    assert name in str(raised.value)
    assert str(value) in str(raised.value)


def test_numpy_numbers_are_numbers():
    loss = losses.SkewKL(
        alpha=np.float32(0.25),
        temperature=np.int64(2),
        top_k_targets=np.int64(4),
    )
    config = json.loads(json.dumps(losses.serialize(loss)))
    assert losses.get(config).get_config() == loss.get_config()
    assert (loss.alpha, loss.temperature, loss.top_k_targets) == (0.25, 2.0, 4)
