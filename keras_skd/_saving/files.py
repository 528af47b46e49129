"""Files and folders are replaced as a whole, or not at all."""

import contextlib
import os
import pathlib
import shutil
import tempfile

from keras_skd._backend import is_first_process


@contextlib.contextmanager
def complete_file(filepath):
    """Yields a path to write to, which becomes `filepath` at the end.

    If the process is killed while writing, the previous file is kept. The path
    is in the same folder and has the same extension.

    Several processes may write at once, since on TensorFlow all of them must
    read the state: those after the first write to a temporary folder.

    Args:
        filepath: str or `pathlib.Path`, a local file.
    """
    filepath = pathlib.Path(filepath)
    is_first = is_first_process()
    partial = filepath.with_name(f".partial.{filepath.name}")
    if not is_first:
        partial = pathlib.Path(
            tempfile.gettempdir(), f"{os.getpid()}{partial.name}"
        )
    try:
        yield partial
        if not is_first:
            return
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, filepath)
    finally:
        partial.unlink(missing_ok=True)


def can_be_replaced(filepath, overwrite) -> bool:
    """Whether a path is a local file that can be replaced without asking."""
    try:
        path = os.fspath(filepath)
    except TypeError:  # A file object.
        return False
    if "://" in path:
        return False
    return overwrite or not os.path.exists(path)


def replace_folder(path: str, write):
    """Replaces a folder with a new one.

    If the process is killed, the previous folder is kept: at its path, or where
    `recover_folder` finds it.

    Args:
        path: str.
        write: callable that writes the new folder to the path it is given.
    """
    new, old = f"{path}.new", f"{path}.old"
    shutil.rmtree(new, ignore_errors=True)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    write(new)
    shutil.rmtree(old, ignore_errors=True)
    if os.path.isdir(path):
        os.rename(path, old)
    os.rename(new, path)
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(path: str):
    """Restores the folder if a process was killed in `replace_folder`.

    It may have been killed between the two renames.
    """
    old = f"{path}.old"
    if os.path.isdir(old) and not os.path.exists(path):
        os.rename(old, path)
