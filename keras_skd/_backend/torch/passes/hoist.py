"""Hoists constant subexpressions and views of the weights.

They are computed once, before the first call.
"""

import torch
from torch.fx import Graph
from torch.fx import GraphModule

from keras_skd._backend.torch.passes.nodes import is_random

aten = torch.ops.aten

# The largest constant to keep in memory, in elements.
_LARGEST_CONSTANT = 2**20

_VIEWS = (
    aten.expand.default,
    aten.permute.default,
    aten.reshape.default,
    aten.select.int,
    aten.t.default,
    aten.transpose.int,
    aten.unsqueeze.default,
)


def hoist(module, weights):
    """Hoists nodes that depend on no argument into new first inputs.

    Args:
        module: `torch.fx.GraphModule`, without no-ops.
        weights: list of its inputs that are weights. They are removed.

    Returns:
        `torch.fx.GraphModule` from the weights to the new inputs.
    """
    graph, prologue = module.graph, Graph()
    constants, views, copies = set(), set(weights), {}
    for node in graph.nodes:
        if node.target in _VIEWS and node.args[0] in views:
            views.add(node)
        elif node.op in ("get_attr", "call_function") and not is_random(node):
            if constants.issuperset(node.all_input_nodes):
                constants.add(node)
        if node in constants or node in views:
            copies[node] = prologue.node_copy(node, copies.get)
    hoisted = [
        node
        for node in copies
        if any(user not in copies for user in node.users)
        and (node in views or _numel(module, node) <= _LARGEST_CONSTANT)
    ]
    prologue.output([copies[node] for node in hoisted])
    with graph.inserting_before(next(iter(graph.nodes))):
        for node in hoisted:
            new = graph.placeholder(f"hoisted_{node}")
            node.replace_all_uses_with(
                new, delete_user_cb=lambda user: user not in copies
            )
    graph.eliminate_dead_code()
    for node in weights:
        graph.erase_node(node)
    return GraphModule(module, prologue)


def _numel(module, node):
    if node.op == "get_attr":
        return getattr(module, node.target).numel()
    return node.meta["val"].numel()
