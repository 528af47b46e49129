"""Cache updates in place.

KerasHub takes a cache apart, scatters the new keys and values into a copy of
each part, and stacks the parts: for one token a row, it copies the whole cache
twice. Where the cache is donated, the scatters can write into it.
"""

import torch

from keras_skd._backend.torch.passes.nodes import shape

aten = torch.ops.aten

_SLICES = (aten.select.int, aten.unsqueeze.default)


def reinplace(graph, donated):
    """Replaces updated copies of donated inputs by updates in place.

    Args:
        graph: `torch.fx.Graph`, without no-ops.
        donated: list of its inputs that may be written to.
    """
    (output,) = graph.find_nodes(op="output")
    for source in donated:
        for result in output.args[0]:
            writes = []
            if _slice_of(result, source, writes) != _slice_of(source, source):
                continue
            # Another reader of the input might run after the update.
            if writes and _is_read_only_by(source, _update_nodes(result)):
                for write in writes:
                    write.target = aten.index_put_.default
                output.replace_input_with(result, source)


def _is_read_only_by(node, update):
    """Whether only the nodes of an update read a node and its slices."""
    users = set(node.users)
    if any(user.target is aten.index_put.default for user in users):
        return len(users) == 1 and users <= update
    return users <= update and all(
        _is_read_only_by(user, update)
        for user in users
        if user.target in _SLICES
    )


def _update_nodes(node):
    """A node and the slices, scatters and stacks that it is made of."""
    if node.target is aten.stack.default:
        return {node}.union(*map(_update_nodes, node.args[0]))
    if node.target in (aten.index_put.default, *_SLICES):
        return {node} | _update_nodes(node.args[0])
    return {node}


def _slice_of(node, source, writes=None):
    """Which slice of `source` a node is, apart from what is written to it.

    Args:
        node: the node in question.
        source: the input that it may be a slice of.
        writes: list, to which the scatters on the way are appended.

    Returns:
        `(dims, indices)`: the dimensions of `source` that the node still has,
        in their order, and a dict of the indices selected in the others.
        Dimensions of size 1 are left out. `None` if the node is no slice.
    """
    if node is source:
        return [i for i, n in enumerate(shape(node)) if n > 1], {}
    if node.target is aten.index_put.default and not node.args[3:]:
        writes.append(node)
        # After a second scatter, the result of the first may still be read.
        is_first = node.args[0].target is not node.target
        return _slice_of(node.args[0], source, writes) if is_first else None
    if node.target in _SLICES:
        part = _slice_of(node.args[0], source, writes)
        if part is None or node.target is aten.unsqueeze.default:
            return part
        before, dim, index = shape(node.args[0]), *node.args[1:]
        if before[dim] == 1:
            return part
        dims, indices = part
        selected = dims[_position(before, dim)]
        dims = [i for i in dims if i != selected]
        return dims, {**indices, selected: index}
    if node.target is aten.stack.default:
        parts = [_slice_of(part, source, writes) for part in node.args[0]]
        return _stacked(node, source, parts)
    return None


def _stacked(node, source, parts):
    """The slice that a stack of slices is equal to, or `None`."""
    if None in parts or len(parts) == 1:
        return parts[0]
    dims, indices = parts[0]
    for stacked in indices:
        in_order = [(dims, {**indices, stacked: i}) for i in range(len(parts))]
        if parts == in_order and shape(source)[stacked] == len(parts):
            dim = node.args[1] if len(node.args) > 1 else 0
            at = _position(shape(node), dim)
            rest = {k: i for k, i in indices.items() if k != stacked}
            return [*dims[:at], stacked, *dims[at:]], rest
    return None


def _position(shape, dim):
    """The index of a dimension among those that are larger than 1."""
    return sum(n > 1 for n in shape[: dim % len(shape)])
