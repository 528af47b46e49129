"""One registry for each family of objects: losses, rollouts, rules, schedules.

A registered class has a name (`"top_k"`), survives `get_config` and
`from_config`, and prints as one line (`TopK(k=5)`).
"""

import difflib
import inspect

import keras

_EMPTY = inspect.Parameter.empty


class Registry:
    """The classes of a family, by name.

    Args:
        base: the base class of the family.
        argument: str. The name of an identifier in error messages, such as
            `"loss"`.
        module: str. The public module of the classes, such as
            `"keras_skd.losses"`.
    """

    def __init__(self, base: type, argument: str, module: str):
        self.base = base
        self.argument = argument
        self.module = module
        self.classes: dict[str, type] = {}

    def register(self, name: str | None = None):
        """Decorator that registers a class, under a name if there is one."""

        def register(cls):
            if name is not None:
                self.classes[name] = cls
            return keras.saving.register_keras_serializable("keras_skd")(cls)

        return register

    def get(self, identifier):
        """Returns an object from an identifier.

        Args:
            identifier: an instance or a subclass of `base`; the name of a
                registered class (`"top_k"` or `"TopK"`); or a config, as
                `serialize()` returns it.

        Raises:
            ValueError: if no class has that name, or its constructor needs
                arguments.
            TypeError: if it is none of the above.
        """
        if isinstance(identifier, str):
            identifier = self._class_of_name(identifier)
        elif isinstance(identifier, dict):
            return self.deserialize(identifier)
        if isinstance(identifier, type) and issubclass(identifier, self.base):
            self._check_no_arguments_needed(identifier)
            return identifier()
        if not isinstance(identifier, self.base):
            raise TypeError(
                f"`{self.argument}` must be a `{self.module}."
                f"{self.base.__name__}`, its name or its config. Received: "
                f"{identifier!r} of type {type(identifier).__name__}"
            )
        return identifier

    def serialize(self, instance) -> dict:
        """Returns the config of an instance, which JSON can hold."""
        return keras.saving.serialize_keras_object(instance)

    def deserialize(self, config: dict, custom_objects: dict | None = None):
        """Returns the object that a config describes.

        Args:
            config: dict, as `serialize()` returns it. `"class_name"` may also
                be the name that a class is registered under.
            custom_objects: dict from names to classes that are not registered
                with Keras. Defaults to `None`.

        Raises:
            TypeError: if the config describes an object of another family.
        """
        cls = self.classes.get(config.get("class_name"))
        if cls is not None:
            return cls.from_config(config["config"])
        return self.get(
            keras.saving.deserialize_keras_object(config, custom_objects)
        )

    def _class_of_name(self, name):
        by_class_name = {cls.__name__: cls for cls in self.classes.values()}
        by_name = {**by_class_name, **self.classes}
        if name not in by_name:
            close = difflib.get_close_matches(name, by_name, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(
                f"`{self.argument}` must be one of {sorted(self.classes)}. "
                f"Received: {name!r}.{hint}"
            )
        return by_name[name]

    def _check_no_arguments_needed(self, cls):
        needed = [
            name
            for name, parameter in inspect.signature(cls).parameters.items()
            if parameter.default is _EMPTY
            and parameter.kind
            not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        ]
        if needed:
            arguments = ", ".join(f"{name}=..." for name in needed)
            raise ValueError(
                f"`{self.argument}={cls.__name__}` cannot be made by name, "
                f"since {needed} have no default. Write "
                f"`{self.module}.{cls.__name__}({arguments})` instead."
            )


class Configurable:
    """An object with a config, whose keys are the constructor's arguments."""

    def get_config(self) -> dict:
        return {}

    @classmethod
    def from_config(cls, config: dict):
        return cls(**config)

    def __repr__(self):
        return describe(self)


def describe(value) -> str:
    """One line with an object's class and arguments, such as `TopK(k=5)`.

    Arguments that have their default are left out.
    """
    if isinstance(value, dict):
        items = (f"{k!r}: {describe(v)}" for k, v in value.items())
        return "{" + ", ".join(items) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(describe, value)) + "]"
    has_repr = type(value).__repr__ is not object.__repr__
    if not hasattr(value, "get_config") or (
        has_repr and not isinstance(value, Configurable)
    ):
        return repr(value)
    defaults = _defaults(type(value))
    arguments = []
    for name, described in value.get_config().items():
        argument = getattr(value, name, described)
        shown = describe(argument)
        if name not in defaults or shown != describe(defaults[name]):
            arguments.append(f"{name}={shown}")
    return f"{type(value).__name__}({', '.join(arguments)})"


def _defaults(cls):
    """The default of every argument that a constructor takes or passes on."""
    defaults = {}
    for parent in reversed(cls.__mro__):
        if "__init__" in vars(parent) and parent is not object:
            signature = inspect.signature(parent.__init__)
            for name, parameter in signature.parameters.items():
                defaults[name] = parameter.default
    return defaults
