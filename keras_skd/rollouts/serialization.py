from keras_skd.rollouts.mixture import Mixture
from keras_skd.rollouts.on_policy import OnPolicy
from keras_skd.rollouts.rollout import Rollout
from keras_skd.rollouts.segments import Segments
from keras_skd.rollouts.speculative import Speculative
from keras_skd.rollouts.supervised import Supervised
from keras_skd.rollouts.switch import Switch
from keras_skd.rollouts.teacher import Teacher
from keras_skd.serialization import resolve

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
