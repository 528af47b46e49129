from keras_skd.acceptance.acceptance_rule import AcceptanceRule
from keras_skd.acceptance.top_k import TopK
from keras_skd.serialization import resolve

ALL_CLASSES = {"top_k": TopK}


def get(identifier: str | dict | AcceptanceRule) -> AcceptanceRule:
    """Returns an acceptance rule from its name, its config or itself.

    Example:

    >>> keras_skd.acceptance.get("top_k").k
    25
    """
    return resolve(identifier, AcceptanceRule, ALL_CLASSES, "acceptance")
