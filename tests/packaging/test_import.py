"""`import keras_skd` imports nothing heavy beyond what KerasHub imports."""

import json
import os
import subprocess
import sys

import keras
import pytest

# Each is for one use of the library, or for the tests or the examples.
OPTIONAL = (
    "IPython",
    "accelerate",
    "datasets",
    "gguf",
    "jinja2",
    "matplotlib",
    "rouge_score",
    "sacrebleu",
    "safetensors",
    "tensorboard",
    "transformers",
)
# KerasHub imports some of the optional packages where they are installed, and
# PyTorch has its own use for Jinja: they are taken away first, and then each
# request for one of them is noted.
SCRIPT = """
import json
import sys

import keras_hub

optional = set(sys.argv[1:])


class Requests:
    names = set()

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in optional:
            self.names.add(name)


before = set(sys.modules)
for name in before:
    if name.split(".")[0] in optional:
        del sys.modules[name]
sys.meta_path.insert(0, Requests())

import keras_skd

new = sorted(set(sys.modules) - before)
print(json.dumps({"new": new, "requested": sorted(Requests.names)}))
"""


@pytest.fixture(scope="module")
def imported():
    """What `import keras_skd` adds, and which optional packages it asks for."""
    environment = {**os.environ, "KERAS_BACKEND": keras.config.backend()}
    # As pytest's `pythonpath` does.
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path)
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, *OPTIONAL],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(result.stdout.splitlines()[-1])


def test_no_optional_package(imported):
    assert imported["requested"] == []


def test_no_other_backend(imported):
    others = {"jax", "tensorflow", "torch"} - {keras.config.backend()}
    new = [name for name in imported["new"] if name.split(".")[0] in others]
    assert new == []


def test_only_the_library(imported):
    packages = {name.split(".")[0] for name in imported["new"]}
    known = {"keras_skd", keras.config.backend(), *sys.stdlib_module_names}
    assert packages <= known
