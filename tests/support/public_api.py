"""Every public name of the library, with its signature in the source.

`python -m tests.support.public_api` (or `make api`) writes them to
`tests/public_api.txt`.
"""

import ast
import importlib
import inspect
import pathlib
import textwrap
import types

import keras_skd

ROOT = pathlib.Path(keras_skd.__file__).parent
PINNED = pathlib.Path(__file__).parents[1] / "public_api.txt"


HEADER = "# Written by `make api`, and compared by tests/test_public_api.py.\n"


def public_packages():
    """The names of all packages without an underscore, sorted."""
    folders = (path.parent for path in ROOT.rglob("__init__.py"))
    names = (
        ".".join(("keras_skd", *folder.relative_to(ROOT).parts))
        for folder in folders
    )
    return sorted(name for name in names if "._" not in name)


def public_names(package):
    """The names in `dir()` of a package, without underscored ones."""
    module = importlib.import_module(package)
    names = (name for name in dir(module) if not name.startswith("_"))
    return {name: getattr(module, name) for name in sorted(names)}


def describe():
    """The public API: a text with a line for each name."""
    packages = public_packages()
    public = {
        id(value) for name in packages for value in public_names(name).values()
    }
    lines = []
    for package in packages:
        for name, value in public_names(package).items():
            path = f"{package}.{name}"
            if isinstance(value, types.ModuleType):
                lines.append(f"module {path}")
            elif isinstance(value, type):
                lines += _class_lines(path, value, public)
            elif callable(value):
                lines.append(f"def {path}{_signature(_parse(value))}")
            else:
                lines.append(f"{path}: {type(value).__name__}")
    return HEADER + "\n".join(lines) + "\n"


def _class_lines(path, cls, public):
    """A class, and what it and its private bases define."""
    members = {}
    for part in cls.__mro__:
        is_public = id(part) in public or not _is_ours(part)
        if part is not cls and is_public:
            base = "" if part is object else f"({part.__name__})"
            break
        # Members from `_backend` differ between backends.
        if not part.__module__.startswith("keras_skd._backend"):
            members = {**_members(_parse(part)), **members}
    return [
        f"class {path}{base}",
        *(f"    {members[name]}" for name in sorted(members)),
    ]


def _is_ours(cls):
    return cls.__module__.split(".")[0] == "keras_skd"


def _members(node):
    """The public members in the source of a class, a line for each."""
    members = {}
    for child in node.body:
        if isinstance(child, ast.FunctionDef):
            decorators = [ast.unparse(x) for x in child.decorator_list]
            line = f"def {child.name}{_signature(child)}"
            if "property" in decorators:
                line = f"property {child.name}{_returns(child)}"
            elif "classmethod" in decorators or "staticmethod" in decorators:
                line = f"@{decorators[0]} {line}"
            members[child.name] = line
        elif isinstance(child, ast.AnnAssign):
            members[child.target.id] = ast.unparse(child)
        elif isinstance(child, ast.Assign):
            for target in child.targets:
                members[target.id] = ast.unparse(child)
    return {
        name: line
        for name, line in members.items()
        if not name.startswith("_") or name in ("__init__", "__call__")
    }


def _parse(value):
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(value)))
    return ast.parse(source).body[0]


def _signature(node):
    return f"({ast.unparse(node.args)}){_returns(node)}"


def _returns(node):
    return f" -> {ast.unparse(node.returns)}" if node.returns else ""


if __name__ == "__main__":
    PINNED.write_text(describe())
    print(f"Wrote {PINNED}")
