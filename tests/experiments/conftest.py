import pytest

from experiments import cells
from experiments import models
from experiments import runner
from experiments import teachers
from tests.support.sums import Sums


@pytest.fixture
def tiny(monkeypatch):
    width = dict(num_layers=1, hidden_dim=8, intermediate_dim=8)
    widths = {"teacher": width, "student": width}
    monkeypatch.setitem(models.WIDTHS, "tiny", widths)
    return "tiny"


@pytest.fixture
def sums(monkeypatch, tiny):
    def load(task, scale):
        return models.make(task, "teacher", scale, task.tokenizer(), 1)

    monkeypatch.setattr(teachers, "load", load)
    monkeypatch.setattr(runner, "LOG_EVERY", 1)
    monkeypatch.setattr(cells, "ALL", 2)
    return runner.Runner(Sums(), tiny, 40)
