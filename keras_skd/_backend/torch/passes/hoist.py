"""Hoisting: what is the same at each call is computed once, before the first.

The results become inputs of the graph.
"""

import torch
from torch.fx.node import map_arg

from keras_skd._backend.torch.passes.nodes import is_random

aten = torch.ops.aten

# The largest constant that a graph keeps in memory, in elements.
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


def hoist_constants(module):
    """Hoists constant subexpressions into inputs, and returns their values.

    The new inputs come first.
    """
    graph, values = module.graph, {}
    for node in graph.nodes:
        if node.op == "get_attr":
            values[node] = getattr(module, node.target)
        elif node.op == "call_function" and not is_random(node):
            if all(source in values for source in node.all_input_nodes):
                args, kwargs = map_arg((node.args, node.kwargs), values.get)
                values[node] = node.target(*args, **kwargs)
    hoisted = [
        (node, value)
        for node, value in values.items()
        if isinstance(value, torch.Tensor)
        and value.numel() <= _LARGEST_CONSTANT
        and any(user not in values for user in node.users)
    ]
    with graph.inserting_before(next(iter(graph.nodes))):
        inputs = [graph.placeholder(f"constant_{node}") for node, _ in hoisted]
    for (node, value), new in zip(hoisted, inputs):
        new.meta["val"] = node.meta.get("val", value)
        node.replace_all_uses_with(new)
    graph.eliminate_dead_code()
    return [value for _, value in hoisted]


def hoist_weight_views(graph, weights):
    """Hoists views of the weights into inputs, which replace the weights.

    Args:
        graph: `torch.fx.Graph`.
        weights: list of its inputs that are weights.

    Returns:
        List of pairs, one for each of the new inputs, which come first: the
        index of a weight, and the function that makes the view of it.
    """
    views = {node: (i, ()) for i, node in enumerate(weights)}
    for node in graph.nodes:
        if node.target in _VIEWS and node.args[0] in views:
            i, calls = views[node.args[0]]
            views[node] = i, (*calls, (node.target, node.args[1:]))
    used = [
        node for node in views if any(user not in views for user in node.users)
    ]
    with graph.inserting_before(next(iter(graph.nodes))):
        for node in used:
            view = graph.placeholder(f"view_{node}")
            view.meta["val"] = node.meta.get("val")
            node.replace_all_uses_with(
                view, delete_user_cb=lambda user: user not in views
            )
    for node in reversed(views):
        graph.erase_node(node)

    def viewer(calls):
        def view(x):
            for target, args in calls:
                x = target(x, *args)
            return x

        return view

    return [(views[node][0], viewer(views[node][1])) for node in used]
