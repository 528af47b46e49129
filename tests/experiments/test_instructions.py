"""A tiny model in place of SmolLM2. On JAX alone, as the experiment is."""

import keras
import keras_hub
import pytest
import smollm2

from experiments import cells
from experiments import instructions
from experiments import tables
from experiments.methods import METHODS
from tests.support import tiny_smollm2


@pytest.fixture
def experiment(monkeypatch):
    backbone_class = keras_hub.models.LlamaBackbone
    get_config = backbone_class.get_config
    monkeypatch.setattr(backbone_class, "get_config", get_config)
    model = tiny_smollm2.mended(tiny_smollm2.causal_lm())

    def questions(count):
        return ["what is it?"] * count, ["it is it"] * count

    monkeypatch.setattr(smollm2, "load_teacher", lambda: model)
    monkeypatch.setattr(smollm2, "load_questions", questions)
    monkeypatch.setattr(instructions, "STEPS", (0, 1, 3))
    monkeypatch.setattr(instructions, "NUM_HELD_OUT", 2)
    monkeypatch.setattr(instructions, "SEQUENCE_LENGTH", 40)
    monkeypatch.setattr(instructions, "LEARNING_RATE", 1e-2)
    return instructions.Experiment()


@pytest.mark.slow
@pytest.mark.skipif(
    keras.config.backend() != "jax", reason="the experiment runs on JAX"
)
def test_a_run(experiment):
    line = experiment.run("on_policy", seed=0)
    assert set(instructions.MEASURES) < set(line)
    # At the start, after a step and after three.
    for name in ("kl_teacher", "kl_people", "log_probability"):
        assert len({*line[name]}) == 3
    assert line["kl_people"][2] < line["kl_people"][0]
    assert all(-20 < value < 0 for value in line["log_probability"])
    assert len(line["acceptance_rate"]) == 3
    assert 0 < line["acceptance_rate"][0] < 1


def test_the_table(tmp_path):
    assert tables.instructions(tmp_path) == tables.NO_RUNS
    for seed, end in enumerate([1.0, 2.0]):
        line = dict(seed=seed, steps=[0, 10], seconds=[0, 40.0])
        line |= {name: [9.0, end] for name in instructions.MEASURES}
        cells.append(instructions.path(tmp_path, "skd_25"), line)
    *_, untrained, skd = tables.instructions(tmp_path).splitlines()
    assert untrained.startswith("| *untrained* | 9.00 | 9.00 |")
    value = "1.50 [1.00, 2.00]"
    label = METHODS["skd_25"].label
    assert skd == f"| {label} |" + f" {value} |" * 4 + " 4.0 | 2 |"
