"""The demo from start to end, with a tiny model in place of SmolLM2."""

import pathlib
import re
import runpy

import pytest
import smollm2

from tests.support import tiny_smollm2

EXAMPLES = pathlib.Path(smollm2.__file__).parent


@pytest.mark.slow
def test_demo(causal_lm, tmp_path, monkeypatch, capsys):
    tiny_smollm2.mended(causal_lm)

    def questions(count, seed):
        return ["what is it?"] * count, ["it is it"] * count

    monkeypatch.setattr(smollm2, "load_teacher", lambda: causal_lm)
    monkeypatch.setattr(smollm2, "load_questions", questions)
    student = tmp_path / "student"
    options = ["--steps", "4", "--batch-size", "16"]
    options += ["--sequence-length", "40", "--output", str(student)]
    monkeypatch.setattr("sys.argv", ["distill_smollm2.py", *options])

    runpy.run_path(str(EXAMPLES / "distill_smollm2.py"), run_name="__main__")

    printed = capsys.readouterr().out
    losses = re.findall(r"validation loss: (\d+\.\d+)", printed)
    rates = re.findall(r"acceptance rate: (\d\.\d+)", printed)
    assert len(losses) == len(rates) == 2
    assert float(losses[1]) < float(losses[0])
    assert "the 4-bit file dequantised" in printed
    assert (student / "task.json").exists()
