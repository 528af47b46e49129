from keras_skd._registry import resolve
from keras_skd.acceptance._acceptance_rule import AcceptanceRule
from keras_skd.acceptance._interpolated import Interpolated
from keras_skd.acceptance._lossless import Lossless
from keras_skd.acceptance._probability_floor import ProbabilityFloor
from keras_skd.acceptance._top_k import TopK
from keras_skd.acceptance._top_p import TopP
from keras_skd.acceptance._typical import Typical

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
