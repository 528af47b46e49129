import keras_hub
import pytest

from tests.support import tiny_smollm2


@pytest.fixture(autouse=True)
def unmended_backbone(monkeypatch):
    """Undoes `mend_backbone_config()` after each test."""
    backbone_class = keras_hub.models.LlamaBackbone
    get_config = backbone_class.get_config
    monkeypatch.setattr(backbone_class, "get_config", get_config)


@pytest.fixture
def causal_lm():
    return tiny_smollm2.causal_lm()
