from keras_skd._distiller import Distiller


def check_distiller(callback, model) -> Distiller:
    """Returns the model that a callback is used with.

    Raises:
        TypeError: if it is not a `Distiller`.
    """
    if not isinstance(model, Distiller):
        raise TypeError(
            f"`{type(callback).__name__}` is a callback of "
            "`keras_skd.Distiller.fit`. Received: a "
            f"{type(model).__name__}"
        )
    return model


def check_choice(name: str, value, choices: tuple):
    """Returns `value`, if it is one of the choices."""
    if value not in choices:
        raise ValueError(
            f"`{name}` must be one of {choices}. Received: {value!r}"
        )
    return value
