from keras_skd._registry import resolve
from keras_skd.rollouts._mixture import Mixture
from keras_skd.rollouts._on_policy import OnPolicy
from keras_skd.rollouts._rollout import Rollout
from keras_skd.rollouts._segments import Segments
from keras_skd.rollouts._speculative import Speculative
from keras_skd.rollouts._supervised import Supervised
from keras_skd.rollouts._switch import Switch
from keras_skd.rollouts._teacher import Teacher

ALL_CLASSES = {
    "mixture": Mixture,
    "on_policy": OnPolicy,
    "segments": Segments,
    "speculative": Speculative,
    "supervised": Supervised,
    "switch": Switch,
    "teacher": Teacher,
}


def get(identifier: str | dict | Rollout) -> Rollout:
    """Returns a rollout from its name, its config or itself.

    Example:

    >>> keras_skd.rollouts.get("on_policy").student_sampler.temperature
    1.0
    """
    return resolve(identifier, Rollout, ALL_CLASSES, "rollout")
