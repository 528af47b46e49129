"""Prints pip's constraints for the lowest versions that pyproject.toml allows.

`make test-lowest` installs them.
"""

import pathlib
import tomllib

PYPROJECT = pathlib.Path(__file__).parents[2] / "pyproject.toml"


def constraints():
    """`name==version` for each dependency that has a lower bound."""
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    groups = [
        project["dependencies"],
        *project["optional-dependencies"].values(),
    ]
    bounds = [each.partition(">=") for group in groups for each in group]
    return sorted({f"{name}=={low}" for name, _, low in bounds if low})


if __name__ == "__main__":
    print("\n".join(constraints()))
