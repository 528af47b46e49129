import keras
import pytest

if keras.config.backend() != "torch":
    pytest.skip("graphs of PyTorch operations", allow_module_level=True)

import torch

from keras_skd._backend.torch.graph import Graph

aten = torch.ops.aten


def operations(graph):
    """The functions that a graph calls, in order."""
    nodes = graph.module.graph.nodes
    return [node.target for node in nodes if node.op == "call_function"]


def trace(function, *arguments, donate_argnum=None):
    """The graph of a function without weights, and a way to call it."""
    graph = Graph(
        lambda weights, *args: function(*args),
        [],
        list(arguments),
        donate_argnum,
    )
    return graph, lambda *args: graph(graph.prepare([]), args)


@torch.no_grad()
def check(function, *arguments):
    """Traces a function, and checks that its results stay the same."""
    graph, run = trace(function, *arguments)
    # Also with other values than in the trace.
    for factor in (1, 3):
        args = [factor * x for x in arguments]
        before = [x.clone() for x in args]
        torch.testing.assert_close(
            run(*args), function(*args), rtol=1e-5, atol=1e-4
        )
        torch.testing.assert_close(args, before, rtol=0, atol=0)
    return graph


def test_common_subexpressions_are_eliminated():
    def function(x):
        first = torch.cos(x + 2.0) * torch.arange(3)
        second = torch.cos(x + 2.0) * torch.arange(3)
        return first, second, torch.cos(x + 3.0)

    targets = operations(check(function, torch.randn(2, 3)))
    assert targets.count(aten.cos.default) == 2


def test_constants_are_hoisted():
    def function(x):
        angles = torch.arange(6.0) / 7
        return x * torch.outer(angles.cos(), angles.sin())[1:3], angles

    graph = check(function, torch.randn(2, 6))
    assert operations(graph) == [torch.mul]


def test_constants_of_different_dtypes_are_kept_apart():
    def function(x):
        return torch.full((2,), 1), torch.full((2,), True), x + 1, x + 1.0

    check(function, torch.randint(0, 5, (2,)))
    x = torch.zeros(2, dtype=torch.int64)
    dtypes = [y.dtype for y in trace(function, x)[1](x)]
    assert dtypes == [torch.int64, torch.bool, torch.int64, torch.float32]


def test_random_numbers_are_drawn_at_each_call():
    def function(x):
        return torch.rand_like(x), torch.rand_like(x)

    def constant(x):
        return torch.rand(8)

    _, run = trace(function, torch.zeros(8))
    first, second = run(torch.zeros(8))
    assert not torch.equal(first, second)
    _, run = trace(constant, torch.zeros(8))
    assert not torch.equal(run(torch.zeros(8)), run(torch.zeros(8)))


def test_copies_that_are_written_to_are_kept_apart():
    def function(x, index):
        first, second = x.clone(), x.clone()
        first[index] = 7.0
        rows = second.view(3, 2, 4)
        rows *= 2
        return x, first, second

    check(function, torch.randn(6, 4), torch.tensor([1]))


def test_no_ops_and_dead_code_are_removed():
    def function(x, weights):
        _ = x @ weights
        return x.permute(1, 0).clone().reshape(-1).view(2, -1)

    targets = operations(check(function, torch.randn(4, 6), torch.randn(6, 9)))
    assert targets == [aten.permute.default, torch.reshape]


def rewritten(cache, values, index, layers=(0, 1, 2)):
    """A cache with new values at an index, updated as KerasHub does it."""
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


def test_a_donated_cache_is_updated_in_place():
    graph, run = trace(rewritten, CACHE, VALUES, INDEX, donate_argnum=0)
    cache = CACHE.clone()
    result = run(cache, VALUES, INDEX)
    assert result is cache
    assert torch.equal(cache, rewritten(CACHE, VALUES, INDEX))
    assert aten.index_put.default not in operations(graph)


@pytest.mark.parametrize(
    "function",
    [
        # Layers in a different order.
        lambda *args: rewritten(*args, layers=(0, 2, 1)),
        # Layers are missing.
        lambda *args: rewritten(*args, layers=(0, 1)),
        # The old values are read, too.
        lambda cache, *args: (rewritten(cache, *args), cache[:, 0, 0] + 1),
        lambda cache, *args: (rewritten(cache, *args), cache[:, 1] + 1),
        lambda cache, *args: (rewritten(cache, *args), cache * 2),
        lambda cache, *args: (
            rewritten(cache, *args),
            torch.stack([cache[:, 0, 0], cache[:, 0, 1]]),
        ),
        # In a different shape.
        lambda *args: rewritten(*args).transpose(1, 2),
    ],
)
def test_other_results_leave_a_donated_cache_alone(function):
    _, run = trace(function, CACHE, VALUES, INDEX, donate_argnum=0)
    cache = CACHE.clone()
    torch.testing.assert_close(
        run(cache, VALUES, INDEX), function(CACHE, VALUES, INDEX)
    )
    assert torch.equal(cache, CACHE)


def test_a_cache_is_not_written_to_unless_donated():
    check(lambda cache, values: rewritten(cache, values, INDEX), CACHE, VALUES)


@pytest.mark.parametrize("mask_heads", [1, 6])
def test_grouped_query_attention_repeats_no_keys(mask_heads):
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


def test_large_products_are_left_to_onednn():
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
