"""Every registered class follows every convention."""

import inspect
import json
import re

import keras
import keras_hub
import pytest

import keras_skd
from keras_skd import acceptance
from keras_skd import losses
from keras_skd import rollouts
from keras_skd import schedules
from keras_skd._registry import Configurable

FAMILIES = {
    "acceptance": acceptance,
    "losses": losses,
    "rollouts": rollouts,
    "schedules": schedules,
}
# One instance of every registered class, with arguments other than the
# defaults, and its repr.
SAMPLER = keras_hub.samplers.TopPSampler(p=0.9, seed=3)
INSTANCES = [
    ("acceptance", acceptance.TopK(7), "TopK(k=7)"),
    ("acceptance", acceptance.TopP(0.5), "TopP(p=0.5)"),
    (
        "acceptance",
        acceptance.ProbabilityFloor(schedules.Cosine(0.5, 0.1, 9)),
        "ProbabilityFloor(floor=Cosine(initial=0.5, final=0.1, num_steps=9))",
    ),
    (
        "acceptance",
        acceptance.Typical(0.5, 0.2),
        "Typical(epsilon=0.5, delta=0.2)",
    ),
    (
        "acceptance",
        acceptance.Interpolated(0.5, seed=3),
        "Interpolated(gamma=0.5, seed=3)",
    ),
    ("acceptance", acceptance.Lossless(seed=3), "Lossless(seed=3)"),
    ("losses", losses.ForwardKL(temperature=2.0), "ForwardKL(temperature=2.0)"),
    ("losses", losses.ReverseKL(reduction="sum"), "ReverseKL(reduction='sum')"),
    ("losses", losses.GeneralizedJSD(beta=0.1), "GeneralizedJSD(beta=0.1)"),
    ("losses", losses.SkewKL(alpha=0.2), "SkewKL(alpha=0.2)"),
    (
        "losses",
        losses.SkewReverseKL(stop_gradient_mixture=True),
        "SkewReverseKL(stop_gradient_mixture=True)",
    ),
    (
        "losses",
        losses.TotalVariation(source_weights={"student": 0.5}),
        "TotalVariation(source_weights={'student': 0.5})",
    ),
    ("losses", losses.AdaptiveKL(head_mass=0.6), "AdaptiveKL(head_mass=0.6)"),
    (
        "losses",
        losses.CrossEntropy(temperature=2.0),
        "CrossEntropy(temperature=2.0)",
    ),
    (
        "losses",
        losses.DistiLLM2(10, 3, beta=0.4),
        "DistiLLM2(steps_per_epoch=10, epochs=3, beta=0.4)",
    ),
    (
        "losses",
        losses.WeightedSum(["forward_kl", losses.SkewKL(0.2)], [1.0, 0.5]),
        "WeightedSum(losses=[ForwardKL(), SkewKL(alpha=0.2)], "
        "weights=[1.0, 0.5])",
    ),
    (
        "losses",
        losses.BySource(student="forward_kl", teacher="cross_entropy"),
        "BySource(student=ForwardKL(), teacher=CrossEntropy())",
    ),
    ("rollouts", rollouts.Supervised(), "Supervised()"),
    (
        "rollouts",
        rollouts.OnPolicy(SAMPLER),
        "OnPolicy(student_sampler=TopPSampler(p=0.9, seed=3))",
    ),
    (
        "rollouts",
        rollouts.Teacher("greedy"),
        "Teacher(teacher_sampler=GreedySampler())",
    ),
    (
        "rollouts",
        rollouts.Speculative(acceptance.TopK(5), num_speculative_tokens=3),
        "Speculative(acceptance=TopK(k=5), num_speculative_tokens=3, "
        "student_sampler=RandomSampler(), teacher_sampler=RandomSampler())",
    ),
    (
        "rollouts",
        rollouts.Segments((4, 5), threshold=-1.0),
        "Segments(segment_end_token_ids=(4, 5), threshold=-1.0, "
        "student_sampler=RandomSampler(), teacher_sampler=RandomSampler())",
    ),
    (
        "rollouts",
        rollouts.Mixture({"supervised": 0.5, "on_policy": 0.5}),
        "Mixture(rollouts={Supervised(): 0.5, "
        "OnPolicy(student_sampler=RandomSampler()): 0.5})",
    ),
    (
        "rollouts",
        rollouts.Switch("supervised", "on_policy", at_step=9),
        "Switch(first=Supervised(), "
        "then=OnPolicy(student_sampler=RandomSampler()), at_step=9)",
    ),
    ("schedules", schedules.Constant(2.5), "Constant(value=2.5)"),
    (
        "schedules",
        schedules.Linear(3, 8, 10),
        "Linear(initial=3, final=8, num_steps=10)",
    ),
    (
        "schedules",
        schedules.Cosine(3, 8, 10),
        "Cosine(initial=3, final=8, num_steps=10)",
    ),
]
BASES = {
    acceptance.AcceptanceRule,
    acceptance.DistributionRule,
    acceptance.TeacherRule,
    losses.DistillationLoss,
    losses.Divergence,
    rollouts.Rollout,
    schedules.Schedule,
}


def _public_classes(module):
    return {
        value for value in vars(module).values() if inspect.isclass(value)
    } - {losses.HiddenStateL1}


def test_every_registered_class_is_here():
    public = set().union(*map(_public_classes, FAMILIES.values()))
    assert {type(instance) for _, instance, _ in INSTANCES} == public - BASES
    for cls in public:
        name = keras.saving.get_registered_name(cls)
        assert name == f"keras_skd>{cls.__name__}"


def _name(instance):
    """The snake-case name of a class."""
    if isinstance(instance, losses.DistiLLM2):
        return "distillm2"
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", type(instance).__name__)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


@pytest.mark.parametrize(
    ("family", "instance", "shown"),
    INSTANCES,
    ids=lambda value: (
        type(value).__name__ if hasattr(value, "get_config") else ""
    ),
)
class TestConventions:
    def test_config_round_trip(self, family, instance, shown):
        module = FAMILIES[family]
        config = json.loads(json.dumps(module.serialize(instance)))
        for restored in (module.deserialize(config), module.get(config)):
            assert type(restored) is type(instance)
            assert restored is not instance
            assert module.serialize(restored) == module.serialize(instance)
            assert repr(restored) == repr(instance)

    def test_config_keys_are_arguments(self, family, instance, shown):
        arguments = {}
        for cls in type(instance).__mro__:
            arguments.update(inspect.signature(cls.__init__).parameters)
        assert set(instance.get_config()) <= set(arguments)

    def test_get(self, family, instance, shown):
        module, cls = FAMILIES[family], type(instance)
        assert module.get(instance) is instance
        for identifier in (_name(instance), cls.__name__, cls):
            try:
                default = cls()
            except (TypeError, ValueError):
                # The error says what to write in place of the name.
                with pytest.raises(ValueError) as info:
                    module.get(identifier)
                assert f"{cls.__name__}(" in str(info.value)
            else:
                got = module.get(identifier)
                assert type(got) is cls
                assert repr(got) == repr(default)

    def test_repr_is_one_line(self, family, instance, shown):
        assert repr(instance) == shown

    def test_docstring(self, family, instance, shown):
        doc = inspect.getdoc(type(instance))
        assert "Example:" in doc
        own = vars(type(instance)).get("__init__", object.__init__)
        for name in inspect.signature(own).parameters:
            if name not in ("self", "kwargs", "args"):
                assert re.search(
                    rf"^ {{4}}\*{{0,2}}{name}\b.*:", doc, re.MULTILINE
                ), name


def test_a_class_of_ones_own():
    class Mine(rollouts.Supervised):
        pass

    assert isinstance(rollouts.get(Mine), Mine)
    assert repr(Mine()) == "Mine()"
    assert issubclass(rollouts.Rollout, Configurable)
    assert isinstance(
        keras_skd.Distiller, type
    )  # Not of a family: it has no name.
