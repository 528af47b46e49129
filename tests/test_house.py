"""Rules of the source code that a linter does not know."""

import ast
import pathlib

import keras_skd

ROOT = pathlib.Path(keras_skd.__file__).parent
TEXTS = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in sorted(ROOT.rglob("*.py"))
}
MODULES = {module: ast.parse(text) for module, text in TEXTS.items()}
MAX_LINES = 60
# Only this folder names a backend, except that users pass `tf.data.Dataset`s.
BACKEND_WING = "_backend/"
KNOWS_TF_DATA = "_preprocessing/"

_FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
_IMPORTS = ast.Import | ast.ImportFrom


def functions():
    """Every module's name with each function in it."""
    for module, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, _FUNCTIONS):
                yield module, node


def num_lines(function):
    """The lines of a function, without its decorators and its docstring."""
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        docstring = function.body[0]
        lines -= docstring.end_lineno - docstring.lineno + 1
    return lines


def packages(node):
    """The packages that an import is from."""
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    return {(node.module or "").split(".")[0]}


def test_no_function_is_long():
    total = sum(len(text.splitlines()) for text in TEXTS.values())
    print(f"keras_skd/: {total:,} lines in {len(TEXTS)} modules")
    long = [
        f"{module}: {function.name}, {num_lines(function)} lines"
        for module, function in functions()
        if num_lines(function) > MAX_LINES
    ]
    assert not long, f"at most {MAX_LINES} lines without the docstring"


def test_nothing_is_imported_inside_of_a_function():
    imports = [
        f"{module}: {ast.unparse(node)}"
        for module, function in functions()
        for node in ast.walk(function)
        if isinstance(node, _IMPORTS)
    ]
    assert not imports


def test_no_backend_is_named_outside_of_its_wing():
    named = []
    for module, tree in MODULES.items():
        if module.startswith(BACKEND_WING):
            continue
        backends = {"jax", "torch", "tensorflow"}
        if module.startswith(KNOWS_TF_DATA):
            backends.remove("tensorflow")
        for node in ast.walk(tree):
            if isinstance(node, _IMPORTS):
                is_named = bool(packages(node) & backends)
            else:
                # `keras.config.backend()` and `keras.backend.backend()`.
                is_named = isinstance(node, ast.Call) and ast.unparse(
                    node.func
                ).endswith(("config.backend", "backend.backend"))
            if is_named:
                named.append(f"{module}: {ast.unparse(node)}")
    assert not named


def test_a_module_of_a_public_package_is_private():
    public = [
        module
        for module in MODULES
        if not any(part.startswith("_") for part in pathlib.Path(module).parts)
    ]
    assert not public
