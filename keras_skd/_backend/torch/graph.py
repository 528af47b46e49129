"""Graphs of PyTorch operations that are traced once and replayed.

A KerasHub model computes the same positions, masks and indices in each of its
layers, copies what it could view, and views what it viewed already. A replayed
graph pays for each operation, so those that change nothing are left out, and
those that do the same at each call are done once. A cache is written to, where
KerasHub writes to copies of its parts and stacks these. And products of a few
rows with large weights, which is what decoding is made of, are left to oneDNN.
"""

import torch
from keras import tree
from torch._guards import TracingContext
from torch._guards import tracing
from torch._subclasses import FakeTensorMode
from torch.fx import Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.graph import CodeGen
from torch.fx.node import map_arg

from keras_skd._backend.torch.products import suits_onednn

aten = torch.ops.aten

# What a graph may hold on to, in numbers.
_LARGEST_CONSTANT = 2**20

_COPIES = (
    aten.alias.default,
    aten.clone.default,
    aten.detach.default,
    aten.lift_fresh_copy.default,
)

_PARTS = (aten.select.int, aten.unsqueeze.default)

_VIEWS = (
    aten.expand.default,
    aten.permute.default,
    aten.reshape.default,
    aten.select.int,
    aten.t.default,
    aten.transpose.int,
    aten.unsqueeze.default,
)

# The same functions, which Python calls in half the time.
_NATIVE = {
    aten.add.Tensor: torch.add,
    aten.embedding.default: torch.embedding,
    aten.expand.default: torch.Tensor.expand,
    aten.mean.dim: torch.mean,
    aten.mm.default: torch.mm,
    aten.mul.Tensor: torch.mul,
    aten.neg.default: torch.neg,
    aten.pow.Tensor_Scalar: torch.pow,
    aten.reshape.default: torch.reshape,
    aten.rsqrt.default: torch.rsqrt,
    aten.select.int: torch.select,
    aten.stack.default: torch.stack,
    aten.transpose.int: torch.transpose,
    aten.unsqueeze.default: torch.unsqueeze,
}


class Graph:
    """A function of PyTorch tensors, traced.

    Args:
        function: callable from a list of weights and nested structures of
            tensors to a nested structure of tensors, without side effects.
        weights: list of tensors.
        arguments: list of nested structures of tensors. Other arguments must
            have the same shapes and types.
        donated: int. The number of an argument that a call may write over.
            Defaults to `None`.

    Attributes:
        module: `torch.fx.GraphModule`, from what `prepare` returns and the
            flat arguments to the flat results.
    """

    def __init__(self, function, weights, arguments, donated=None):
        tensors = tree.flatten(arguments)

        def flat(*tensors):
            values = list(tensors[: len(weights)])
            rest = tree.pack_sequence_as(arguments, tensors[len(weights) :])
            result = function(values, *rest)
            self._structure = tree.map_structure(lambda _: 0, result)
            return tree.flatten(result)

        # With a mode for fake tensors at hand, PyTorch does not make one for
        # each operation, which takes longer than all the rest.
        with tracing(TracingContext(FakeTensorMode())):
            self.module = make_fx(torch.func.functionalize(flat))(
                *weights, *tensors
            )
        graph = self.module.graph
        graph.set_codegen(CodeGen())
        inputs = [node for node in graph.nodes if node.op == "placeholder"]
        weight_nodes = inputs[: len(weights)]
        argument_nodes = inputs[len(weights) :]
        _simplify(self.module)
        if donated is not None:
            numbers = tree.map_structure(lambda _: None, arguments)
            numbers = tree.pack_sequence_as(numbers, range(len(tensors)))
            numbers = tree.flatten(numbers[donated])
            _overwrite(graph, [argument_nodes[i] for i in numbers])
        graph.eliminate_dead_code()
        self._constants = _hoist_constants(self.module)
        self._views = _hoist_views(graph, weight_nodes)
        for node in graph.nodes:
            node.target = _NATIVE.get(node.target, node.target)
        self.module.recompile()

    def prepare(self, weights):
        """What a call needs besides its arguments: for these weights."""
        views = [view(weights[i]) for i, view in self._views]
        return [*views, *self._constants]

    def __call__(self, prepared, tensors):
        """The result, for arguments that are flat already."""
        results = self.module.forward(*prepared, *tensors)
        return tree.pack_sequence_as(self._structure, results)


def _simplify(module):
    """Leaves out what gives back what there is, and replaces what is slow."""
    graph, known = module.graph, {}

    def share(node):
        same = _unchanged(node)
        if same is None:
            same = known.setdefault(_key(module, node), node)
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
            return share(new)

        if node.target in (aten.view.default, aten._unsafe_view.default):
            # A view of what is no longer copied may have to copy.
            node.target = aten.reshape.default
        elif node.target in _REPLACEMENTS:
            _REPLACEMENTS[node.target](node, insert)
        share(node)
    graph.eliminate_dead_code()


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


def _square(node, insert):
    """A power by a tensor is a call of `pow` for each number."""
    exponent = node.args[1]
    if exponent.op == "get_attr":
        exponent = getattr(node.graph.owning_module, exponent.target)
        if exponent.ndim == 0:
            node.target = aten.pow.Tensor_Scalar
            node.args = (node.args[0], exponent.item())


def _index_by_int64(node, insert):
    """Each layer would convert the indices that all have in common."""
    source, indices, *rest = node.args
    if None not in indices:
        dtype = {"dtype": torch.int64}
        indices = [insert(aten._to_copy.default, i, **dtype) for i in indices]
        node.args = (source, indices, *rest)


def _multiply_by_onednn(node, insert):
    if suits_onednn(*(source.meta["val"] for source in node.args)):
        transposed = insert(aten.t.default, node.args[1])
        node.target = torch.ops.mkldnn._linear_pointwise.default
        node.args = (node.args[0], transposed, None, "none", [], None)


def _attend_in_groups(node, insert):
    """Lets the heads of a group share their keys, which KerasHub repeats.

    To keys that are not repeated, a group is one head with more queries.
    """
    query, *sources = node.args[:3]
    mask = node.kwargs.get("attn_mask")
    sources = [_unrepeated(x) for x in sources]
    is_plain = len(node.args) == 3 and mask is not None
    outputs = [user for user in node.users if user.users]
    if not is_plain or None in sources or len(outputs) > 1:
        return

    def group(x, num_heads):
        """From `(batch, heads, length, dim)` to fewer heads, or to more."""
        shape = _shape(x)[0], num_heads, -1, _shape(x)[-1]
        return insert(aten.reshape.default, x, shape)

    def keys(x):
        x = insert(aten.transpose.int, x, -3, -2)
        shape = _shape(query)[0], *_shape(x)[-3:]
        return insert(aten.reshape.default, x, shape)

    num_heads, num_groups = _shape(query)[1], _shape(sources[0])[-2]
    if _shape(mask)[1] == 1:
        size = num_heads // num_groups
        mask = insert(aten.expand.default, mask, (-1, size, -1, -1))
        mask = group(mask, 1)
    else:
        mask = group(mask, num_groups)
    node.args = (group(query, num_groups), *map(keys, sources))
    node.kwargs = {**node.kwargs, "attn_mask": mask}
    (output,) = outputs
    with node.graph.inserting_after(output):
        shape = _shape(output)
        back = node.graph.call_function(aten.reshape.default, (output, shape))
    back.meta["val"] = output.meta["val"]
    output.meta["val"] = output.meta["val"].reshape(_shape(node.args[0]))
    output.replace_all_uses_with(back, delete_user_cb=lambda x: x is not back)


def _unrepeated(node):
    """What keys are made of by repeating each head, or `None`.

    From `(..., length, groups, dim)` to `(batch, heads, length, dim)`.
    """
    if node.target is aten.reshape.default:  # From a batch of one, by row.
        node = node.args[0]
    if node.target is not aten.transpose.int:
        return None
    node, *dims = node.args
    *rest, num_heads, dim = _shape(node)
    rank = len(rest) + 2
    if {i % rank for i in dims} != {rank - 3, rank - 2}:
        return None
    for target in (aten.reshape.default, aten.expand.default):
        if node.target is not target:
            return None
        node = node.args[0]
    if node.target is not aten.unsqueeze.default or node.args[1] != rank - 1:
        return None
    num_groups = _shape(node.args[0])[-2]
    is_repeated = _shape(node.args[0]) == (*rest, num_groups, dim)
    return node.args[0] if is_repeated and num_heads % num_groups == 0 else None


_REPLACEMENTS = {
    aten._scaled_dot_product_flash_attention_for_cpu.default: _attend_in_groups,
    aten.index_put.default: _index_by_int64,
    aten.mm.default: _multiply_by_onednn,
    aten.pow.Tensor_Tensor: _square,
}


def _overwrite(graph, inputs):
    """Writes into the inputs that are given back with other values in parts.

    KerasHub takes a cache apart, writes into a copy of each part, and stacks
    the parts: for a token a row, the whole cache is copied twice.
    """
    (output,) = graph.find_nodes(op="output")
    for source in inputs:
        for result in output.args[0]:
            writes = []
            place = _place(result, source, writes)
            if place != _place(source, source, writes):
                continue
            # Nobody else may read what will have been written over.
            if writes and _is_read_by(source, _sources(result)):
                for write in writes:
                    write.target = aten.index_put_.default
                output.replace_input_with(result, source)


def _is_read_by(node, result):
    """Whether a node and its parts are only read to make `result`."""
    users = set(node.users)
    if any(user.target is aten.index_put.default for user in users):
        return len(users) == 1 and users <= result
    return users <= result and all(
        _is_read_by(user, result) for user in users if user.target in _PARTS
    )


def _sources(node):
    """A node and those that it takes parts, copies and stacks of."""
    if node.target is aten.stack.default:
        return {node}.union(*map(_sources, node.args[0]))
    if node.target in (aten.index_put.default, *_PARTS):
        return {node} | _sources(node.args[0])
    return {node}


def _place(node, source, writes):
    """Which part of `source` a node is, but for the `writes` that it collects.

    Returns the dimensions of `source` that the node has, in their order and
    without those of size 1, and the indices in the others, as a dict. Or `None`
    if the node is no such part.
    """
    if node is source:
        return [i for i, n in enumerate(_shape(node)) if n > 1], {}
    if node.target is aten.index_put.default and not node.args[3:]:
        writes.append(node)
        # What is written twice may be read in between.
        is_first = node.args[0].target is not node.target
        return _place(node.args[0], source, writes) if is_first else None
    if node.target in _PARTS:
        place = _place(node.args[0], source, writes)
        if place is None or node.target is aten.unsqueeze.default:
            return place
        shape, dim, index = _shape(node.args[0]), *node.args[1:]
        if shape[dim] == 1:
            return place
        dims, indices = place
        selected = dims[_position(shape, dim)]
        dims = [i for i in dims if i != selected]
        return dims, {**indices, selected: index}
    if node.target is aten.stack.default:
        places = [_place(part, source, writes) for part in node.args[0]]
        if None in places or len(places) == 1:
            return places[0]
        dims, indices = places[0]
        for stacked in indices:
            found = [
                (dims, {**indices, stacked: i}) for i in range(len(places))
            ]
            if places == found and _shape(source)[stacked] == len(places):
                dim = node.args[1] if len(node.args) > 1 else 0
                at = _position(_shape(node), dim)
                rest = {k: i for k, i in indices.items() if k != stacked}
                return [*dims[:at], stacked, *dims[at:]], rest
    return None


def _shape(node):
    return node.meta["val"].shape


def _position(shape, dim):
    """The number of a dimension among those that are not of size 1."""
    return sum(n > 1 for n in shape[: dim % len(shape)])


def _hoist_constants(module):
    """Makes inputs of what no input has a part in. Returns their values."""
    graph, values, hoisted = module.graph, {}, []
    for node in graph.nodes:
        if node.op == "get_attr":
            values[node] = getattr(module, node.target)
        elif node.op == "call_function" and not _is_random(node):
            if all(source in values for source in node.all_input_nodes):
                args, kwargs = map_arg((node.args, node.kwargs), values.get)
                values[node] = node.target(*args, **kwargs)
    for node, value in values.items():
        is_tensor = isinstance(value, torch.Tensor)
        if is_tensor and value.numel() <= _LARGEST_CONSTANT:
            if any(user not in values for user in node.users):
                hoisted.append((node, value))
    # In their order, before the inputs that were there.
    with graph.inserting_before(next(iter(graph.nodes))):
        inputs = [graph.placeholder(f"constant_{node}") for node, _ in hoisted]
    for (node, value), new in zip(hoisted, inputs):
        new.meta["val"] = node.meta.get("val", value)
        node.replace_all_uses_with(new)
    graph.eliminate_dead_code()
    return [value for _, value in hoisted]


def _hoist_views(graph, weights):
    """Makes inputs of what the weights are viewed as.

    Returns pairs of the number of a weight and a function of it, one for each
    of the new inputs, which take the places of the weights.
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


def _equal(attribute, *nodes):
    first, second = (getattr(n.meta["val"], attribute) for n in nodes)
    return first == second


def _key(module, node):
    """What two nodes have in common that have the same value."""
    if node.op == "get_attr":
        value = getattr(module, node.target)
        if value.ndim == 0:  # A number in the program.
            return value.dtype, value.device, value.item()
    if node.op != "call_function" or _is_random(node):
        return node
    return node.target, _hashable(node.args), _hashable(node.kwargs)


def _is_random(node):
    tags = getattr(node.target, "tags", ())
    return torch.Tag.nondeterministic_seeded in tags


def _hashable(x):
    if isinstance(x, (list, tuple)):
        return tuple(map(_hashable, x))
    if isinstance(x, dict):
        return tuple((k, _hashable(x[k])) for k in sorted(x))
    # 1, 1.0 and True are equal, and not the same argument.
    return x if isinstance(x, Node) else (type(x), x)
