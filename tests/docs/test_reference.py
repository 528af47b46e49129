"""Every public name is in the API reference."""

import ast
import pathlib
import types

import pytest

from tests.support.public_api import ROOT
from tests.support.public_api import public_names
from tests.support.public_api import public_packages

REPOSITORY = pathlib.Path(__file__).parents[2]
PAGES = REPOSITORY / "docs" / "reference"


@pytest.mark.parametrize("package", public_packages())
def test_package_has_a_page(package):
    name = f"{package.split('.')[-1]}.md"
    assert f"::: {package}\n" in (PAGES / name).read_text()
    navigation = (REPOSITORY / "mkdocs.yml").read_text()
    assert f": reference/{name}\n" in navigation


# A page shows what the package imports by name and what has a docstring.
@pytest.mark.parametrize("package", public_packages())
def test_public_names_are_on_the_page(package):
    source = ROOT.joinpath(*package.split(".")[1:], "__init__.py").read_text()
    imported = {
        alias.asname or alias.name
        for node in ast.parse(source).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    for name, value in public_names(package).items():
        if isinstance(value, types.ModuleType):
            assert value.__name__ in public_packages()
        else:
            assert name in imported
            assert vars(value).get("__doc__") or (
                not isinstance(value, type) and value.__doc__
            ), f"{package}.{name} has no docstring"
