"""Graphs of PyTorch operations that are traced once and replayed.

A KerasHub model computes the same positions, masks and indices in each of its
layers, copies what it could view, and views what it viewed already. A replayed
graph pays for each operation, so those that change nothing are left out. And
products of a few rows with large weights, which is what decoding is made of,
are left to oneDNN, as `torch.compile` does on a CPU: it is twice as fast.
"""

import torch
from torch._guards import TracingContext
from torch._guards import tracing
from torch._subclasses import FakeTensorMode
from torch.fx import Node
from torch.fx.experimental.proxy_tensor import make_fx

aten = torch.ops.aten

# Below, a call of oneDNN takes longer than it gains.
_SMALLEST_WEIGHTS = 2**17

_VIEWS = (aten.view.default, aten._unsafe_view.default)
_COPIES = (
    aten.alias.default,
    aten.clone.default,
    aten.detach.default,
    aten.lift_fresh_copy.default,
)


def trace(function, *arguments):
    """A graph of `function`, for arguments of these shapes.

    Args:
        function: callable from nested structures of tensors to nested
            structures of tensors, without side effects.

    Returns:
        `torch.fx.GraphModule`, called as `function` is.
    """
    # With a mode for fake tensors at hand, PyTorch does not make one for each
    # operation, which takes longer than all the rest.
    with tracing(TracingContext(FakeTensorMode())):
        module = make_fx(torch.func.functionalize(function))(*arguments)
    graph, known = module.graph, {}
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in _VIEWS:
            # A view of what is no longer copied may have to copy.
            node.target = aten.reshape.default
        _stack_at_once(graph, node)
        _multiply_by_onednn(graph, node)
        same = _unchanged(node)
        if same is None:
            same = known.setdefault(_key(module, node), node)
        if same is not node:
            node.replace_all_uses_with(same)
            graph.erase_node(node)
    graph.eliminate_dead_code()
    module.recompile()
    return module


def _unchanged(node):
    """The node whose value this node gives back, if it does."""
    if node.op != "call_function" or not node.args:
        return None
    source = node.args[0]
    if node.target in _COPIES:
        return source
    if node.target is aten.reshape.default:
        if source.target is aten.reshape.default:
            node.args = (source.args[0], *node.args[1:])
        return source if _equal("shape", node, source) else None
    if node.target is aten.expand.default and _equal("shape", node, source):
        return source
    if node.target is aten._to_copy.default and _equal("dtype", node, source):
        return source if _equal("device", node, source) else None
    if node.target is aten.permute.default:
        is_identity = list(node.args[1]) == list(range(len(node.args[1])))
        return source if is_identity else None
    return None


def _stack_at_once(graph, node):
    """A stack of stacks copies twice: keys with values, then all layers."""
    if node.target is not aten.stack.default:
        return
    stacks, dim = node.args[0], node.args[1:]
    if any(s.target is not node.target or s.args[1:] != dim for s in stacks):
        return
    sizes = {len(stack.args[0]) for stack in stacks}
    if len(sizes) > 1:
        return
    parts = [part for stack in stacks for part in stack.args[0]]
    with graph.inserting_before(node):
        whole = graph.call_function(aten.stack.default, (parts, *dim))
    node.target = aten.unflatten.int
    node.args = (whole, dim[0] if dim else 0, (len(stacks), *sizes))


def _multiply_by_onednn(graph, node):
    if node.target is not aten.mm.default:
        return
    x, weights = (source.meta["val"] for source in node.args)
    if not torch.backends.mkldnn.is_available() or x.device.type != "cpu":
        return
    if x.dtype != torch.float32 or weights.numel() < _SMALLEST_WEIGHTS:
        return
    with graph.inserting_before(node):
        transposed = graph.call_function(aten.t.default, (node.args[1],))
    node.target = torch.ops.mkldnn._linear_pointwise.default
    node.args = (node.args[0], transposed, None, "none", [], None)


def _equal(attribute, *nodes):
    first, second = (getattr(n.meta["val"], attribute) for n in nodes)
    return first == second


def _key(module, node):
    """What two nodes have in common that have the same value."""
    if node.op == "get_attr":
        value = getattr(module, node.target)
        if value.ndim == 0:  # A number in the program.
            return value.dtype, value.device, value.item()
    is_random = (
        node.op == "call_function"
        and torch.Tag.nondeterministic_seeded
        in getattr(node.target, "tags", ())
    )
    if node.op != "call_function" or is_random:
        return node
    return node.target, _hashable(node.args), _hashable(node.kwargs)


def _hashable(x):
    if isinstance(x, (list, tuple)):
        return tuple(map(_hashable, x))
    if isinstance(x, dict):
        return tuple((k, _hashable(x[k])) for k in sorted(x))
    # 1, 1.0 and True are equal, and not the same argument.
    return x if isinstance(x, Node) else (type(x), x)
