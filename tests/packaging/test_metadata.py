"""pyproject.toml agrees with the library, the Makefile and the changelog."""

import ast
import pathlib
import re
import sys
import tomllib

from packaging.requirements import Requirement
from packaging.version import Version

import keras_skd

ROOT = pathlib.Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]


def requirements():
    """Every requirement of a user, with those of the extras."""
    groups = [
        PROJECT["dependencies"],
        *PROJECT["optional-dependencies"].values(),
    ]
    return [Requirement(each) for group in groups for each in group]


def test_the_version_is_in_one_place():
    assert "version" in PROJECT["dynamic"]
    path = ROOT / PYPROJECT["tool"]["hatch"]["version"]["path"]
    (version,) = re.findall(
        r'^__version__ = "(.+)"$', path.read_text(), re.MULTILINE
    )
    assert version == keras_skd.__version__ == str(Version(version))


def test_the_changelog_has_the_version():
    headings = re.findall(
        r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    assert Version(keras_skd.__version__).base_version in headings[0]


def test_what_is_imported_is_declared():
    imported = set()
    for path in (ROOT / "keras_skd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.split(".")[0])
    imported -= {"keras_skd", *sys.stdlib_module_names}
    declared = {each.name.replace("-", "_") for each in requirements()}
    assert imported <= declared


def test_the_tested_versions_are_allowed():
    pins = re.findall(r"([\w-]+)==([\d.]+\d)", (ROOT / "Makefile").read_text())
    assert pins
    bounds = {each.name: each.specifier for each in requirements()}
    for name, version in pins:
        assert version in bounds[name], f"{name}=={version}"
