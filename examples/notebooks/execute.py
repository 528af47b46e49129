"""Executes the notebooks of this folder and stores their outputs.

    python examples/notebooks/execute.py
    KERAS_BACKEND=torch python examples/notebooks/execute.py first_distillation

Each notebook runs from its first cell to its last in a fresh kernel. Without
`KERAS_BACKEND`, it runs on the backend that it names. If a cell fails, the file
is left as it was.

A notebook's metadata records the run under `"keras_skd"`: a hash of the code
cells, the backend, the versions and the seconds. `tests/examples/` compares
them with the cells and the pinned versions.
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import pathlib
import re
import tempfile
import time

import nbclient
import nbformat

FOLDER = pathlib.Path(__file__).resolve().parent
# The project has no public address yet. This is the only place to enter it:
# `execute.py --heads` then writes it into the notebooks.
REPOSITORY = "OWNER/keras_skd"
TIMEOUT = 1800  # Seconds for one cell.


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="without .ipynb; or all")
    parser.add_argument(
        "--heads", action="store_true", help="only write badge and installation"
    )
    args = parser.parse_args()
    paths = [FOLDER / f"{name}.ipynb" for name in args.names]
    for path in paths or sorted(FOLDER.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        write_head(notebook, path)
        if not args.heads:
            run = execute(notebook)
            print(f"{path.stem}: {run['backend']}, {run['seconds']} s")
        nbformat.write(notebook, path)


def execute(notebook):
    """Runs all cells in a fresh kernel, and records the run.

    The kernel's folder is temporary, because notebooks save models.
    """
    start = time.monotonic()
    search = [str(FOLDER.parent), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, search)),
        # What a run prints beside the outputs of its cells.
        "TQDM_DISABLE": "1",
        "PYTHONWARNINGS": "ignore:IProgress not found",
    }
    with tempfile.TemporaryDirectory() as folder:
        client = nbclient.NotebookClient(
            notebook,
            timeout=TIMEOUT,
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": folder}},
            # The log of C++ libraries goes to the terminal.
            extra_arguments=["--IPKernelApp.capture_fd_output=False"],
        )
        client.execute(env=environment)
    backend = os.environ.get("KERAS_BACKEND") or default_backend(notebook)
    packages = ["keras", "keras-hub", "keras-skd", backend]
    notebook.metadata["keras_skd"] = {
        "code_sha256": code_hash(notebook),
        "backend": backend,
        "versions": {name: version(name) for name in packages},
        "seconds": round(time.monotonic() - start),
    }
    return notebook.metadata["keras_skd"]


def version(package):
    """The version of a package, without the build (`+cpu`)."""
    return importlib.metadata.version(package).partition("+")[0]


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def code_hash(notebook):
    """A hash of the code cells that outputs depend on.

    The first one installs the library where it is missing. It has the address
    of the project, which may change without a run.
    """
    sources = [cell.source for cell in code_cells(notebook)[1:]]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def default_backend(notebook):
    """The backend that a notebook names in its second code cell."""
    return re.search(
        r'setdefault\("KERAS_BACKEND", "(\w+)"\)',
        code_cells(notebook)[1].source,
    )[1]


def write_head(notebook, path):
    """Writes the cells that have the address of the project."""
    notebook.cells[0].source = badge(path)
    backend = default_backend(notebook)
    code_cells(notebook)[0].source = installation(backend)


def badge(path):
    """Markdown that opens a notebook in Colab."""
    colab = "https://colab.research.google.com"
    return (
        f"[![Open in Colab]({colab}/assets/colab-badge.svg)]({colab}/github/"
        f"{REPOSITORY}/blob/main/examples/notebooks/{path.name})"
    )


def installation(backend):
    """A code cell that installs what a notebook imports."""
    raw = f"https://raw.githubusercontent.com/{REPOSITORY}/main"
    return f"""\
# Nothing happens here if keras_skd is installed.
import importlib.util
import sys

if importlib.util.find_spec("keras_skd") is None:
    %pip install -q "keras-skd[{backend},chat,examples]"
    !wget -q {raw}/examples/smollm2.py

sys.path.append("..")  # In a clone, smollm2.py is in the folder above."""


if __name__ == "__main__":
    main()
