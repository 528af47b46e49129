import keras

from keras_skd._registry import resolve
from keras_skd.losses._distillation_loss import DistillationLoss


def _named_losses():
    # Not at the top: losses that hold other losses are made with `get()`.
    from keras_skd.losses._adaptive_kl import AdaptiveKL
    from keras_skd.losses._cross_entropy import CrossEntropy
    from keras_skd.losses._forward_kl import ForwardKL
    from keras_skd.losses._generalized_jsd import GeneralizedJSD
    from keras_skd.losses._reverse_kl import ReverseKL
    from keras_skd.losses._skew_kl import SkewKL
    from keras_skd.losses._skew_reverse_kl import SkewReverseKL
    from keras_skd.losses._total_variation import TotalVariation

    return {
        "adaptive_kl": AdaptiveKL,
        "cross_entropy": CrossEntropy,
        "forward_kl": ForwardKL,
        "generalized_jsd": GeneralizedJSD,
        "reverse_kl": ReverseKL,
        "skew_kl": SkewKL,
        "skew_reverse_kl": SkewReverseKL,
        "total_variation": TotalVariation,
    }


def serialize(loss: DistillationLoss) -> dict:
    """Returns the config of a loss, from which `deserialize()` makes it again.

    Args:
        loss: a `keras_skd.losses.DistillationLoss`.

    Returns:
        A dict that JSON can hold.
    """
    return keras.saving.serialize_keras_object(loss)


def deserialize(
    config: dict, custom_objects: dict | None = None
) -> DistillationLoss:
    """Returns the loss that a config describes.

    Args:
        config: dict, as `serialize()` returns it.
        custom_objects: dict. Classes that are neither in this library nor
            registered with Keras, by their names. Defaults to `None`.

    Returns:
        A `keras_skd.losses.DistillationLoss`.

    Raises:
        TypeError: If the config describes another kind of object.
    """
    return get(keras.saving.deserialize_keras_object(config, custom_objects))


def get(
    identifier: str | dict | type | DistillationLoss,
) -> DistillationLoss:
    """Returns the loss that an identifier stands for.

    Args:
        identifier: a `keras_skd.losses.DistillationLoss`; or such a class, to
            be made with its defaults; or the name of one, such as
            `"forward_kl"`; or a config dict, as of `serialize()`.

    Returns:
        A `keras_skd.losses.DistillationLoss`.

    Raises:
        ValueError: If there is no loss of that name.
        TypeError: If `identifier` is none of the above, or a Keras loss that
            is not for distillation.

    Example:

    ```python
    import keras_skd

    loss = keras_skd.losses.get("reverse_kl")
    config = keras_skd.losses.serialize(loss)
    loss = keras_skd.losses.get(config)
    ```
    """
    if isinstance(identifier, dict):
        return deserialize(identifier)
    cls = identifier if isinstance(identifier, type) else type(identifier)
    if issubclass(cls, keras.losses.Loss) and not issubclass(
        cls, DistillationLoss
    ):
        raise TypeError(
            f"{cls.__name__} is a Keras loss, but not a distillation loss. "
            "Keras' losses do not know the response mask, and its "
            "`KLDivergence` clips probabilities at 1e-7, so that the student "
            "gets no gradient where it is most wrong. Use a loss of "
            '`keras_skd.losses`, such as "forward_kl", or subclass '
            f"`keras_skd.losses.DistillationLoss`. Received: {identifier!r}"
        )
    return resolve(identifier, DistillationLoss, _named_losses(), "loss")
