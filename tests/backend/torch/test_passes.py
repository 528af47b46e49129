import keras
import pytest

if keras.config.backend() != "torch":
    pytest.skip("graphs of PyTorch operations", allow_module_level=True)

import torch

from keras_skd._backend import replay
from keras_skd._backend.torch.graph import Graph
from keras_skd._backend.torch.replay import frozen_weights
from keras_skd.decoding import CachedCausalLM
from tests.support.writing import random_causal_lm

aten = torch.ops.aten


def operations(graph):
    """The functions that a replay calls, in their order."""
    nodes = graph.module.graph.nodes
    return [node.target for node in nodes if node.op == "call_function"]


def trace(function, *arguments, donate_argnum=None):
    """The graph of a function without weights, and how to call it."""
    graph = Graph(
        lambda weights, *args: function(*args),
        [],
        list(arguments),
        donate_argnum,
    )
    return graph, lambda *args: graph(graph.prepare([]), args)


@torch.no_grad()
def check(function, *arguments):
    """Traces a function, and sees to it that it is still the same."""
    graph, run = trace(function, *arguments)
    # With other values than it was traced with, too.
    for factor in (1, 3):
        args = [factor * x for x in arguments]
        before = [x.clone() for x in args]
        torch.testing.assert_close(
            run(*args), function(*args), rtol=1e-5, atol=1e-4
        )
        torch.testing.assert_close(args, before, rtol=0, atol=0)
    return graph


def test_equal_operations_are_done_once():
    def function(x):
        first = torch.cos(x + 2.0) * torch.arange(3)
        second = torch.cos(x + 2.0) * torch.arange(3)
        return first, second, torch.cos(x + 3.0)

    targets = operations(check(function, torch.randn(2, 3)))
    assert targets.count(aten.cos.default) == 2


def test_what_is_always_the_same_is_done_once_and_for_all():
    def function(x):
        angles = torch.arange(6.0) / 7
        return x * torch.outer(angles.cos(), angles.sin())[1:3], angles

    graph = check(function, torch.randn(2, 6))
    assert operations(graph) == [torch.mul]


def test_numbers_of_different_types_are_not_equal():
    def function(x):
        return torch.full((2,), 1), torch.full((2,), True), x + 1, x + 1.0

    check(function, torch.randint(0, 5, (2,)))
    x = torch.zeros(2, dtype=torch.int64)
    dtypes = [y.dtype for y in trace(function, x)[1](x)]
    assert dtypes == [torch.int64, torch.bool, torch.int64, torch.float32]


def test_random_numbers_are_not_equal():
    def function(x):
        return torch.rand_like(x), torch.rand_like(x)

    def constant(x):
        return torch.rand(8)

    _, run = trace(function, torch.zeros(8))
    first, second = run(torch.zeros(8))
    assert not torch.equal(first, second)
    _, run = trace(constant, torch.zeros(8))
    assert not torch.equal(run(torch.zeros(8)), run(torch.zeros(8)))


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
    assert targets == [aten.permute.default, torch.reshape]


def rewritten(cache, values, index, layers=(0, 1, 2)):
    """A cache with other values at an index, as KerasHub makes it."""
    parts = []
    for i in layers:
        part = []
        for j in range(2):
            copy = cache[:, i, j].clone()
            copy.index_put_((torch.arange(2)[:, None], index), values + i - j)
            part.append(copy)
        parts.append(torch.stack(part, dim=1))
    return torch.stack(parts, dim=1)


CACHE = torch.arange(2 * 3 * 2 * 5 * 4.0).reshape(2, 3, 2, 5, 4)
VALUES, INDEX = -torch.ones(2, 1, 4), torch.tensor([[3], [1]])


def test_a_donated_cache_is_written_to():
    graph, run = trace(rewritten, CACHE, VALUES, INDEX, donate_argnum=0)
    cache = CACHE.clone()
    result = run(cache, VALUES, INDEX)
    assert result is cache
    assert torch.equal(cache, rewritten(CACHE, VALUES, INDEX))
    assert aten.index_put.default not in operations(graph)


@pytest.mark.parametrize(
    "function",
    [
        # Layers in another order.
        lambda *args: rewritten(*args, layers=(0, 2, 1)),
        # Layers are missing.
        lambda *args: rewritten(*args, layers=(0, 1)),
        # What was written over is read.
        lambda cache, *args: (rewritten(cache, *args), cache[:, 0, 0] + 1),
        lambda cache, *args: (rewritten(cache, *args), cache[:, 1] + 1),
        lambda cache, *args: (rewritten(cache, *args), cache * 2),
        lambda cache, *args: (
            rewritten(cache, *args),
            torch.stack([cache[:, 0, 0], cache[:, 0, 1]]),
        ),
        # In another shape.
        lambda *args: rewritten(*args).transpose(1, 2),
    ],
)
def test_what_is_not_the_donated_cache_is_another(function):
    _, run = trace(function, CACHE, VALUES, INDEX, donate_argnum=0)
    cache = CACHE.clone()
    torch.testing.assert_close(
        run(cache, VALUES, INDEX), function(CACHE, VALUES, INDEX)
    )
    assert torch.equal(cache, CACHE)


def test_what_is_not_donated_is_not_written_to():
    check(lambda cache, values: rewritten(cache, values, INDEX), CACHE, VALUES)


@pytest.mark.parametrize("mask_heads", [1, 6])
def test_repeated_keys_are_not_repeated(mask_heads):
    def function(query, keys, values, mask):
        keys, values = (
            x.repeat_interleave(3, dim=2).transpose(1, 2)
            for x in (keys, values)
        )
        return torch.nn.functional.scaled_dot_product_attention(
            query.transpose(1, 2), keys, values, mask
        )

    graph = check(
        function,
        torch.randn(2, 4, 6, 8),
        torch.randn(2, 5, 2, 8),
        torch.randn(2, 5, 2, 8),
        torch.randn(2, mask_heads, 4, 5),
    )
    inputs = {
        tuple(node.args[1].meta["val"].shape)
        for node in graph.module.graph.nodes
        if node.target
        is aten._scaled_dot_product_flash_attention_for_cpu.default
    }
    assert inputs == {(2, 2, 5, 8)}


def test_large_products_are_onednns():
    if not torch.backends.mkldnn.is_available():
        pytest.skip("PyTorch was built without oneDNN")

    def function(x, large, tied, small):
        return x @ large, x @ tied.T, x @ small

    graph = check(
        function,
        torch.randn(8, 256),
        torch.randn(256, 1024) / 16,
        torch.randn(1024, 256) / 16,
        torch.randn(256, 16),
    )
    targets = operations(graph)
    onednn = torch.ops.mkldnn._linear_pointwise.default
    assert targets.count(onednn) == 2
    assert targets.count(torch.mm) == 1


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
        graph, _ = trace(lambda *args: lm._map_rows(*args), *arguments)
    targets = operations(graph)
    assert aten.bmm.default not in targets
    attention = aten._scaled_dot_product_flash_attention_for_cpu.default
    assert targets.count(attention) == lm.model.backbone.num_layers


def test_what_cannot_be_traced_runs_as_it_is():
    def function(x):
        return x * 2 if float(x.sum()) > 0 else x * 3

    call = replay(function, list)
    with pytest.warns(UserWarning, match="cannot be traced"):
        assert float(call(torch.tensor(1.0))) == 2.0
    assert float(call(torch.tensor(-1.0))) == -3.0


def test_replays_read_the_variables_of_the_day():
    variable = keras.Variable([1.0, 2.0])
    call = replay(lambda x: x * variable, lambda: [variable])
    x = torch.tensor([1.0, 1.0])
    with torch.no_grad():
        assert call(x).tolist() == [1.0, 2.0]
        variable.assign([3.0, 4.0])
        assert call(x).tolist() == [3.0, 4.0]
        # Another shape is another graph.
        assert call(x[None]).tolist() == [[3.0, 4.0]]


def test_frozen_weights_are_read_again_after():
    variable = keras.Variable([1.0, 2.0])
    lists = []

    def variables():
        lists.append([variable])
        return lists[-1]

    call = replay(lambda x: x * variable, variables)
    x = torch.tensor([1.0, 1.0])
    with torch.no_grad():
        for values in ([1.0, 2.0], [3.0, 4.0]):
            variable.assign(values)
            with frozen_weights():
                assert call(x).tolist() == values
                assert call(x + 0).tolist() == values
    assert len(lists) == 2
