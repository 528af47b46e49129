"""Names for the objects of a family, as in `keras.losses.get`."""

import difflib

import keras


def resolve(identifier, base, classes, argument):
    """Turns a name, a config, a class or an instance into an instance.

    Args:
        identifier: a `base` instance or class, one of the names in `classes`,
            or a config dict from `keras.saving.serialize_keras_object`.
        base: the class that all members of the family have.
        classes: dict from snake-case names to classes.
        argument: str. The argument that it came from, for the errors.

    Raises:
        ValueError: if there is no member of that name.
        TypeError: if it is nothing that can stand for a member.
    """
    if isinstance(identifier, str):
        if identifier not in classes:
            close = difflib.get_close_matches(identifier, classes, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            raise ValueError(
                f"`{argument}` must be one of {sorted(classes)}. Received: "
                f"{identifier!r}.{hint}"
            )
        identifier = classes[identifier]
    if isinstance(identifier, dict):
        identifier = keras.saving.deserialize_keras_object(identifier)
    if isinstance(identifier, type) and issubclass(identifier, base):
        identifier = identifier()
    if not isinstance(identifier, base):
        kind = type(identifier).__name__
        raise TypeError(
            f"`{argument}` must be a `{base.__name__}`, its name or its "
            f"config. Received: {identifier!r} of type {kind}"
        )
    return identifier
