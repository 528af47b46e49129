"""Replacements of slow patterns, by the last operation of a pattern.

A replacement changes its node in place. It is called with the node and with
`insert(target, *args, **kwargs)`, which makes a new node before it.
"""

import torch

from keras_skd._backend.torch.passes.nodes import shape
from keras_skd._backend.torch.products import suits_onednn

aten = torch.ops.aten


def _pow_by_scalar(node, insert):
    """Makes a constant exponent of `pow` a scalar: a tensor is slow."""
    exponent = node.args[1]
    if exponent.op == "get_attr":
        exponent = getattr(node.graph.owning_module, exponent.target)
        if exponent.ndim == 0:
            node.target = aten.pow.Tensor_Scalar
            node.args = (node.args[0], exponent.item())


def _index_by_int64(node, insert):
    """Casts indices as `index_put` would, but once for all layers (CSE)."""
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


def _ungroup_attention(node, insert):
    """Grouped-query attention without repeated keys and values.

    KerasHub repeats them for each query head of a group. Here a group becomes
    one head with more queries, which attends to the original keys.
    """
    query, *sources = node.args[:3]
    mask = node.kwargs.get("attn_mask")
    sources = [_before_repeat(x) for x in sources]
    is_plain = len(node.args) == 3 and mask is not None
    outputs = [user for user in node.users if user.users]
    if not is_plain or None in sources or len(outputs) > 1:
        return

    def regroup(x, num_heads):
        """Splits or joins the heads of `(batch, heads, length, dim)`."""
        new_shape = shape(x)[0], num_heads, -1, shape(x)[-1]
        return insert(aten.reshape.default, x, new_shape)

    def keys(x):
        x = insert(aten.transpose.int, x, -3, -2)
        new_shape = shape(query)[0], *shape(x)[-3:]
        return insert(aten.reshape.default, x, new_shape)

    num_heads, num_groups = shape(query)[1], shape(sources[0])[-2]
    if shape(mask)[1] == 1:
        size = num_heads // num_groups
        mask = insert(aten.expand.default, mask, (-1, size, -1, -1))
        mask = regroup(mask, 1)
    else:
        mask = regroup(mask, num_groups)
    node.args = (regroup(query, num_groups), *map(keys, sources))
    node.kwargs = {**node.kwargs, "attn_mask": mask}
    (output,) = outputs
    with node.graph.inserting_after(output):
        ungrouped = node.graph.call_function(
            aten.reshape.default, (output, shape(output))
        )
    ungrouped.meta["val"] = output.meta["val"]
    output.meta["val"] = output.meta["val"].reshape(shape(node.args[0]))
    output.replace_all_uses_with(
        ungrouped, delete_user_cb=lambda user: user is not ungrouped
    )


def _before_repeat(node):
    """The keys or values before each head was repeated, or `None`.

    They have shape `(..., length, groups, dim)`, and `node` has shape
    `(batch, heads, length, dim)`.
    """
    if node.target is aten.reshape.default:  # `vmap` adds a batch of one.
        node = node.args[0]
    if node.target is not aten.transpose.int:
        return None
    node, *dims = node.args
    *rest, num_heads, dim = shape(node)
    rank = len(rest) + 2
    if {i % rank for i in dims} != {rank - 3, rank - 2}:
        return None
    for target in (aten.reshape.default, aten.expand.default):
        if node.target is not target:
            return None
        node = node.args[0]
    if node.target is not aten.unsqueeze.default or node.args[1] != rank - 1:
        return None
    num_groups = shape(node.args[0])[-2]
    is_repeat = shape(node.args[0]) == (*rest, num_groups, dim)
    return node.args[0] if is_repeat and num_heads % num_groups == 0 else None


PATTERNS = {
    aten._scaled_dot_product_flash_attention_for_cpu.default: (
        _ungroup_attention
    ),
    aten.index_put.default: _index_by_int64,
    aten.mm.default: _multiply_by_onednn,
    aten.pow.Tensor_Tensor: _pow_by_scalar,
}
