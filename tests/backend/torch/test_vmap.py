import keras
import pytest

if keras.config.backend() != "torch":
    pytest.skip("batching rules of torch.vmap", allow_module_level=True)

import torch

from keras_skd._backend.torch.graph import Graph
from keras_skd.decoding import CachedCausalLM
from tests.support.writing import random_causal_lm

aten = torch.ops.aten


def test_rows_share_products_and_attention():
    """A product for each row would read the weights once for each of them."""
    lm = CachedCausalLM(random_causal_lm("llama"))
    rows = 3
    arguments = (
        torch.ones((rows, 2), dtype=torch.int32),
        lm.empty_cache(rows, 8),
        torch.tensor([0, 2, 5]),
    )
    with torch.no_grad():
        graph = Graph(lambda _, *args: lm._map_rows(*args), [], arguments)
    targets = [node.target for node in graph.module.graph.nodes]
    assert aten.bmm.default not in targets
    attention = aten._scaled_dot_product_flash_attention_for_cpu.default
    assert targets.count(attention) == lm.model.backbone.num_layers
