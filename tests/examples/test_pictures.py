"""The command that makes the README's pictures, with a tiny model."""

import pathlib
import runpy
import xml.etree.ElementTree

import pictures
import pytest
import smollm2

from keras_skd import Source
from keras_skd.visualization._token_text import Token

ROOT = pathlib.Path(smollm2.__file__).parents[1]
SVG = "{http://www.w3.org/2000/svg}"


def texts(svg):
    return [
        x.text for x in xml.etree.ElementTree.fromstring(svg).iter(f"{SVG}text")
    ]


def test_every_token_is_on_the_color_of_its_author():
    words = ["a" * 90, " <b>", " & \n", "it"]
    sources = [Source.STUDENT, Source.TEACHER, Source.STUDENT, Source.STUDENT]
    tokens = [Token(i, i, *x) for i, x in enumerate(zip(words, sources))]
    svg = pictures.rollout_svg("who?", {"before": tokens})
    assert texts(svg)[:2] == ["who?", "before"]
    assert texts(svg)[2:6] == ["a" * 90, " <b>", " & ↵", "it"]
    root = xml.etree.ElementTree.fromstring(svg)
    fills = [x.get("fill") for x in root.iter(f"{SVG}rect")][1:5]
    assert fills == [pictures.COLORS[source] for source in sources]
    # The third does not fit into the line.
    lines = [x.get("y") for x in root.iter(f"{SVG}text")][2:6]
    assert lines[0] == lines[1] != lines[2] == lines[3]
    assert all(
        float(x.get("x")) + float(x.get("textLength"))
        <= float(root.get("width"))
        for x in root.iter(f"{SVG}text")
    )


@pytest.mark.slow
def test_pictures(causal_lm, tmp_path, monkeypatch, one_draft_length):
    smollm2.mend_backbone_config()
    smollm2.mend_tokenizer(causal_lm)
    monkeypatch.setattr(smollm2, "load_teacher", lambda: causal_lm)
    monkeypatch.setattr(
        smollm2,
        "load_questions",
        lambda count, seed: (["what is it?"] * count, ["it is it"] * count),
    )
    options = ["--steps", "4", "--batch-size", "16", "--sequence-length", "40"]
    options += ["--output", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["pictures.py", *options])
    runpy.run_path(str(ROOT / "examples" / "pictures.py"), run_name="__main__")

    shown = texts((tmp_path / "rollout.svg").read_text(encoding="utf-8"))
    assert shown[0] == "what is it?"
    assert "before training" in shown and "after 4 steps" in shown
    history = (tmp_path / "history.svg").read_text(encoding="utf-8")
    assert {"loss", "acceptance_rate", "epoch"} <= {*texts(history)}


def test_the_readme_has_them_and_they_are_small():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in ("rollout.svg", "history.svg"):
        assert f"](docs/images/{name})" in readme
        assert (ROOT / "docs" / "images" / name).stat().st_size < 100_000
