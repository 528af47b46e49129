from keras_skd.acceptance.acceptance_rule import AcceptanceRule
from keras_skd.acceptance.interpolated import Interpolated
from keras_skd.acceptance.lossless import Lossless
from keras_skd.acceptance.probability_floor import ProbabilityFloor
from keras_skd.acceptance.top_k import TopK
from keras_skd.acceptance.top_p import TopP
from keras_skd.acceptance.typical import Typical
from keras_skd.serialization import resolve

ALL_CLASSES = {
    "interpolated": Interpolated,
    "lossless": Lossless,
    "probability_floor": ProbabilityFloor,
    "top_k": TopK,
    "top_p": TopP,
    "typical": Typical,
}


def get(identifier: str | dict | AcceptanceRule) -> AcceptanceRule:
    """Returns an acceptance rule from its name, its config or itself.

    Example:

    >>> keras_skd.acceptance.get("top_k").k
    25
    """
    return resolve(identifier, AcceptanceRule, ALL_CLASSES, "acceptance")
