def check_no_lambda(argument: str, config, path=()):
    """Returns a config, after checking that loading it runs no code.

    Args:
        argument: str. The argument of the config, for the error.
        config: dict, list or anything else, as Keras serializes it.
        path: tuple of strings. Where in the argument the config is.

    Raises:
        ValueError: if a lambda is in it.
    """
    if isinstance(config, dict):
        if config.get("class_name") == "__lambda__":
            raise ValueError(
                f"A lambda cannot be saved: loading it would run code from the "
                f"file. Received: `{path[-1]}` of `{argument}`, a lambda. "
                "Define it as a function, decorated with "
                "`@keras.saving.register_keras_serializable()`."
            )
        for key, value in config.items():
            inner = path if key in ("config", "items") else (*path, key)
            check_no_lambda(argument, value, inner)
    elif isinstance(config, list):
        for value in config:
            check_no_lambda(argument, value, path)
    return config
