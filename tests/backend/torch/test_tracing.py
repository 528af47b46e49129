import keras
import pytest

if keras.config.backend() != "torch":
    pytest.skip("graphs of PyTorch operations", allow_module_level=True)

import collections

import torch
from keras import tree
from torch.fx.experimental.proxy_tensor import make_fx

from keras_skd._backend.torch.tracing import trace
from keras_skd._backend.torch.vmap import vmap_scope
from keras_skd.decoding import CachedCausalLM
from tests.support.causal_lms import ARCHITECTURES
from tests.support.writing import random_causal_lm

aten = torch.ops.aten

# For a constant, `make_fx` records the second.
_NEW_CONSTANTS = aten.lift_fresh.default, aten.lift_fresh_copy.default


def targets(module):
    """How often a graph has each operation whose result is used."""
    module.graph.eliminate_dead_code()
    return collections.Counter(
        node.target
        for node in module.graph.nodes
        if node.op == "call_function" and node.target not in _NEW_CONSTANTS
    )


@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_steps_of_models_are_what_make_fx_records(name):
    lm = CachedCausalLM(random_causal_lm(name))
    token_ids = torch.tensor([[3, 4], [5, 6]], dtype=torch.int32)
    check(lm._map_rows, token_ids, lm.empty_cache(2, 8), torch.tensor([0, 2]))
    check(lm.extend, token_ids, lm.empty_cache(2, 8), torch.tensor(2))


def check(step, *arguments):
    tensors = tree.flatten(arguments)

    def function(*tensors):
        with vmap_scope():
            arguments_ = tree.pack_sequence_as(arguments, tensors)
            return tree.flatten(step(*arguments_))

    ours = trace(function, tensors)
    theirs = make_fx(torch.func.functionalize(function))(*tensors)
    assert targets(ours) == targets(theirs)
    # Other values than those of the trace.
    tensors = [x + 1 for x in tensors]
    torch.testing.assert_close(ours(*tensors), theirs(*tensors))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: [x * 2 if x.sum() > 0 else x],
        lambda x: [x * float(x[0])],
        lambda x: [x.nonzero()],
        lambda x: [x[x > 0]],
        lambda x: [x * float(torch.rand(()))],
    ],
)
def test_values_that_decide_are_refused(function):
    with pytest.raises(RuntimeError, match="depends on values"):
        trace(function, [torch.tensor([1.0, 2.0])])


def test_values_of_constants_may_decide():
    def function(x):
        return [x * int(torch.arange(4).sum())]

    module = trace(function, [torch.tensor([1.0, 2.0])])
    assert module(torch.tensor([2.0]))[0].tolist() == [12.0]


def test_changes_in_place_become_new_tensors():
    def function(x):
        y = x.clone()
        y[0] = 5.0
        y += 1.0
        return [y]

    x = torch.tensor([1.0, 2.0])
    module = trace(function, [x])
    assert module(x)[0].tolist() == [6.0, 3.0]
    assert x.tolist() == [1.0, 2.0]


def test_an_argument_that_changes_is_refused():
    x = torch.tensor([1.0, 2.0])
    with pytest.raises(RuntimeError, match="in place"):
        trace(lambda x: [x.add_(1.0)], [x])
    assert x.tolist() == [1.0, 2.0]
