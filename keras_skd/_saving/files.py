"""Files that are there as a whole, or not at all."""

import contextlib
import os
import pathlib


@contextlib.contextmanager
def complete_file(filepath):
    """Yields a path to write to, which becomes `filepath` at the end.

    Whoever is killed while writing leaves the file that was there before.
    The path is in the same folder and has the same extension.

    Args:
        filepath: str or `pathlib.Path`, a local file.
    """
    filepath = pathlib.Path(filepath)
    partial = filepath.with_name(f".partial.{filepath.name}")
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, filepath)
    finally:
        partial.unlink(missing_ok=True)


def can_be_replaced(filepath, overwrite) -> bool:
    """Whether a path is a local file that need not ask to be overwritten."""
    try:
        path = os.fspath(filepath)
    except TypeError:  # A file object.
        return False
    if "://" in path:
        return False
    return overwrite or not os.path.exists(path)
