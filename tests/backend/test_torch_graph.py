import keras
import pytest

if keras.config.backend() != "torch":
    pytest.skip("graphs of PyTorch operations", allow_module_level=True)

import torch

from keras_skd.backend import replayed
from keras_skd.backend import torch_graph
from keras_skd.decoding import CachedCausalLM
from tests.writing import random_causal_lm


def operations(module):
    return [
        node.target for node in module.graph.nodes if node.op == "call_function"
    ]


@torch.no_grad()
def check(function, *arguments):
    """Traces a function, and sees to it that it is still the same."""
    module = torch_graph.trace(function, *arguments)
    # With other values than it was traced with, too.
    for factor in (1, 3):
        args = [factor * x for x in arguments]
        before = [x.clone() for x in args]
        torch.testing.assert_close(
            module(*args), function(*args), rtol=1e-5, atol=1e-4
        )
        torch.testing.assert_close(args, before, rtol=0, atol=0)
    return module


def test_equal_operations_are_done_once():
    def function(x):
        first = torch.cos(x + 2.0) * torch.arange(3)
        second = torch.cos(x + 2.0) * torch.arange(3)
        return first, second, torch.cos(x + 3.0)

    targets = operations(check(function, torch.randn(2, 3)))
    assert targets.count(torch.ops.aten.cos.default) == 2
    assert targets.count(torch.ops.aten.arange.default) == 1


def test_numbers_of_different_types_are_not_equal():
    def function(x):
        return torch.full((2,), 1), torch.full((2,), True), x + 1, x + 1.0

    module = check(function, torch.randint(0, 5, (2,)))
    dtypes = [y.dtype for y in module(torch.zeros(2, dtype=torch.int64))]
    assert dtypes == [torch.int64, torch.bool, torch.int64, torch.float32]


def test_random_numbers_are_not_equal():
    def function(x):
        return torch.rand_like(x), torch.rand_like(x)

    first, second = torch_graph.trace(function, torch.zeros(8))(torch.zeros(8))
    assert not torch.equal(first, second)


def test_copies_that_are_written_to_are_still_copies():
    def function(x, index):
        first, second = x.clone(), x.clone()
        first[index] = 7.0
        rows = second.view(3, 2, 4)
        rows *= 2
        return x, first, second

    check(function, torch.randn(6, 4), torch.tensor([1]))


def test_what_is_not_returned_is_not_done():
    def function(x, weights):
        _ = x @ weights
        return x.permute(1, 0).clone().reshape(-1).view(2, -1)

    targets = operations(check(function, torch.randn(4, 6), torch.randn(6, 9)))
    aten = torch.ops.aten
    assert targets == [aten.permute.default, aten.reshape.default]


def test_stacks_of_stacks_are_stacked_once():
    def function(x, y):
        layers = [torch.stack([x + i, y * i], dim=1) for i in range(3)]
        uneven = [torch.stack([x, y]), torch.stack([x - 1, y - 1])]
        return torch.stack(layers, dim=1), torch.stack(uneven, dim=1)

    module = check(function, torch.randn(2, 4), torch.randn(2, 4))
    # The first in one; the second has its stacks in another dimension.
    assert operations(module).count(torch.ops.aten.stack.default) == 4


def test_large_products_are_onednns():
    if not torch.backends.mkldnn.is_available():
        pytest.skip("PyTorch was built without oneDNN")

    def function(x, large, tied, small):
        return x @ large, x @ tied.T, x @ small

    module = check(
        function,
        torch.randn(8, 256),
        torch.randn(256, 1024) / 16,
        torch.randn(1024, 256) / 16,
        torch.randn(256, 16),
    )
    targets = operations(module)
    onednn = torch.ops.mkldnn._linear_pointwise.default
    assert targets.count(onednn) == 2
    assert targets.count(torch.ops.aten.mm.default) == 1


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
        targets = operations(
            torch_graph.trace(lambda *args: lm._map_rows(*args), *arguments)
        )
    aten = torch.ops.aten
    assert aten.bmm.default not in targets
    attention = aten._scaled_dot_product_flash_attention_for_cpu.default
    assert targets.count(attention) == lm.model.backbone.num_layers


def test_what_cannot_be_traced_runs_as_it_is():
    def function(x):
        return x * 2 if float(x.sum()) > 0 else x * 3

    call = replayed(function, lambda: [])
    with pytest.warns(UserWarning, match="cannot be traced"):
        assert float(call(torch.tensor(1.0))) == 2.0
    assert float(call(torch.tensor(-1.0))) == -3.0


def test_replays_read_the_variables_of_the_day():
    variable = keras.Variable([1.0, 2.0])
    call = replayed(lambda x: x * variable, lambda: [variable])
    x = torch.tensor([1.0, 1.0])
    with torch.no_grad():
        assert call(x).tolist() == [1.0, 2.0]
        variable.assign([3.0, 4.0])
        assert call(x).tolist() == [3.0, 4.0]
        # Another shape is another graph.
        assert call(x[None]).tolist() == [[3.0, 4.0]]
