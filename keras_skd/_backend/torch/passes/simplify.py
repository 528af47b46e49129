"""Common subexpression elimination (CSE) and removal of no-ops.

A KerasHub model computes the same positions, masks and indices in each of its
layers, clones tensors that it only reads, and reshapes tensors to the shape
they have.
"""

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from keras_skd._backend.torch.passes.nodes import is_random
from keras_skd._backend.torch.passes.nodes import shape
from keras_skd._backend.torch.passes.patterns import PATTERNS

aten = torch.ops.aten

# The graph is functional, so that a copy can be replaced by the original.
_COPIES = (
    aten.alias.default,
    aten.clone.default,
    aten.detach.default,
    aten.lift_fresh.default,
)


def simplify(module):
    """Removes no-op and duplicate nodes, and replaces slow patterns.

    All of this is one walk, since each step makes others possible.
    """
    graph, known = module.graph, {}

    def deduplicate(node):
        same = _no_op_input(node)
        if same is None:
            same = known.setdefault(_value_key(module, node), node)
        if same is not node:
            node.replace_all_uses_with(same)
            graph.erase_node(node)
        return same

    for node in list(graph.nodes):

        def insert(target, *args, node=node, **kwargs):
            with graph.inserting_before(node):
                new = graph.call_function(target, args, kwargs)
            args, kwargs = map_arg((args, kwargs), lambda n: n.meta["val"])
            new.meta["val"] = target(*args, **kwargs)
            return deduplicate(new)

        if node.target in (aten.view.default, aten._unsafe_view.default):
            # Without the clone before it, a view may have to copy.
            node.target = aten.reshape.default
        elif node.target in PATTERNS:
            PATTERNS[node.target](node, insert)
        deduplicate(node)
    graph.eliminate_dead_code()


def _no_op_input(node):
    """The input that a node returns unchanged, or `None`."""
    if node.op != "call_function" or not node.args:
        return None
    source = node.args[0]
    if node.target in _COPIES:
        return source
    if node.target is aten.reshape.default:
        if source.target is aten.reshape.default:
            node.args = (source.args[0], *node.args[1:])
        return source if shape(node) == shape(source) else None
    if node.target is aten.expand.default and shape(node) == shape(source):
        return source
    if node.target is aten._to_copy.default:
        new, old = node.meta["val"], source.meta["val"]
        is_same = new.dtype == old.dtype and new.device == old.device
        return source if is_same else None
    if node.target is aten.permute.default:
        is_identity = list(node.args[1]) == list(range(len(node.args[1])))
        return source if is_identity else None
    return None


def _value_key(module, node):
    """A key that only nodes of equal value share."""
    if node.op == "get_attr":
        value = getattr(module, node.target)
        if value.ndim == 0:  # A Python number in the traced code.
            return value.dtype, value.device, value.item()
    if node.op != "call_function" or is_random(node):
        return node
    return node.target, _hashable(node.args), _hashable(node.kwargs)


def _hashable(x):
    if isinstance(x, (list, tuple)):
        return tuple(map(_hashable, x))
    if isinstance(x, dict):
        return tuple((k, _hashable(x[k])) for k in sorted(x))
    # 1, 1.0 and True are equal, but different arguments.
    return x if isinstance(x, Node) else (type(x), x)
