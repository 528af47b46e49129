"""The notebooks as they are stored: nothing is executed here.

`make notebooks` executes them.
"""

import ast
import fnmatch
import pathlib
import re

import keras_hub
import nbformat
import pytest
from notebooks import execute

ROOT = pathlib.Path(execute.__file__).parents[2]
PATHS = sorted(execute.FOLDER.glob("*.ipynb"))
MAX_OUTPUT = 150_000  # Characters, in base64 if it is an image.
MAX_NOTEBOOK = 500_000
# A number with a decimal point or a percent sign.
_FIGURE = re.compile(r"\d\.\d|\d ?%")


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


def test_there_are_notebooks():
    assert PATHS


def test_format(path, notebook):
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert path.read_text(encoding="utf-8").endswith("}\n")
    assert path.stat().st_size < MAX_NOTEBOOK


def test_outputs_are_from_these_cells(notebook):
    cells = execute.code_cells(notebook)
    assert [cell.execution_count for cell in cells] == [
        *range(1, len(cells) + 1)
    ], "executed from the first cell to the last, once"
    run = notebook.metadata["keras_skd"]
    assert run["code_sha256"] == execute.code_hash(notebook), (
        "a code cell was changed after the run: `make notebooks`"
    )


def test_versions_are_those_of_the_makefile(notebook):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    pins = dict(re.findall(r"(\S+)==(\S+)", makefile))
    run = notebook.metadata["keras_skd"]
    assert {"keras", "keras-hub", "keras-skd", run["backend"]} == {
        *run["versions"]
    }
    for package, version in run["versions"].items():
        if package != "keras-skd":
            assert fnmatch.fnmatch(version, pins[package]), package
    assert run["versions"]["keras-skd"] == execute.version("keras-skd")


def test_outputs_are_clean_and_small(notebook):
    outputs = [
        output
        for cell in execute.code_cells(notebook)
        for output in cell.outputs
    ]
    assert len(outputs) > 3
    for output in outputs:
        assert output.output_type != "error"
        # Warnings and progress bars.
        assert output.get("name") != "stderr", output.text
        assert "\b" not in output.get("text", "")
        assert "\r" not in output.get("text", "")
        # Objects without a representation, and machine paths.
        assert not re.search(r" at 0x[0-9a-f]+>|/root/|/home/", str(output))
        assert len(str(output)) < MAX_OUTPUT
    # An expression whose value is of no interest ends with a semicolon.
    shown = [o for o in outputs if o.output_type == "execute_result"]
    assert all(o.data.get("text/plain") != "None" for o in shown)


def test_head(path, notebook):
    assert notebook.cells[0].source == execute.badge(path), (
        "`python examples/notebooks/execute.py --heads` writes it"
    )
    title, *text = notebook.cells[1].source.split("\n")
    assert re.fullmatch(r"# [A-Z][^#]+", title) and "".join(text).strip()
    install, backend, *_ = execute.code_cells(notebook)
    assert [cell.cell_type for cell in notebook.cells[:2]] == ["markdown"] * 2
    default = execute.default_backend(notebook)
    assert install.source == execute.installation(default)
    assert not install.outputs, "keras_skd was installed by the notebook"
    # Before anything imports Keras.
    assert backend.source.startswith("import os\n")
    assert "import keras" not in backend.source


def test_text_has_no_figures(notebook):
    """Measured values are printed by code: typed ones would become wrong."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            text = re.sub(r"`[^`]*`|\]\([^)]*\)|```.*?```", "", cell.source)
            assert not _FIGURE.search(text), cell.source


def test_code_is_public_api(notebook):
    for cell in execute.code_cells(notebook)[1:]:
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Attribute):
                assert not node.attr.startswith("_"), node.attr


def test_it_says_how_to_go_on_with_a_gpu(notebook):
    text = "\n".join(
        cell.source for cell in notebook.cells if cell.cell_type == "markdown"
    )
    assert "GPU" in text
    presets = re.findall(r'CausalLM.from_preset\(\s*"([^":]+)"', text)
    assert len(presets) > 1
    assert {*presets} <= {*keras_hub.models.CausalLM.presets}


def test_every_notebook_runs_in_ci(path):
    workflow = ROOT / ".github" / "workflows" / "ci.yml"
    assert f"- {path.stem}\n" in workflow.read_text(encoding="utf-8")
