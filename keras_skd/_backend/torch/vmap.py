"""Lets `torch.vmap` run KerasHub's models."""

import contextlib

import torch
from torch._C._functorch import is_batchedtensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx
from torch.nn import functional
from torch.overrides import TorchFunctionMode


@contextlib.contextmanager
def vmap_scope():
    """A context in which `torch.vmap` and tracing can follow KerasHub's models.

    Operations without a batching rule, or with one that runs row by row, are
    replaced by equivalent ones.
    """
    with Substitution(_SUBSTITUTES), _plain_autograd_functions():
        yield


class Substitution(TorchFunctionMode):
    """A context in which some functions are replaced by others.

    Args:
        substitutes: dict from a function to the one to call instead.
    """

    def __init__(self, substitutes):
        super().__init__()
        self._substitutes = substitutes

    def __torch_function__(self, function, types, args=(), kwargs=None):
        function = self._substitutes.get(function, function)
        return function(*args, **(kwargs or {}))


@contextlib.contextmanager
def _plain_autograd_functions():
    """Runs the forward pass of an autograd `Function` that has no `vmap`.

    PyTorch refuses those under `vmap`, and Keras' quantized layers use them.
    Without gradients, only the forward pass matters.
    """
    apply = Function.__dict__["apply"]

    def forward(cls, *args, **kwargs):
        has_rule = cls.setup_context is not Function.setup_context
        if has_rule or torch.is_grad_enabled():
            return apply.__get__(None, cls)(*args, **kwargs)
        return cls.forward(FunctionCtx(), *args, **kwargs)

    Function.apply = classmethod(forward)
    try:
        yield
    finally:
        Function.apply = apply


def _einsum(equation, *operands):
    # `einsum` is a batched product: under `vmap`, each row is multiplied by
    # its own copy of the weights. `tensordot` multiplies all rows at once.
    terms, _, result = equation.replace(" ", "").partition("->")
    first, _, second = terms.partition(",")
    summed = [i for i in first if i in second]
    is_product = len(operands) == 2 and result and "." not in equation
    if not is_product or set(summed) & set(result):
        return torch.einsum(equation, *operands)
    dims = [[term.index(i) for i in summed] for term in (first, second)]
    product = torch.tensordot(*operands, dims)
    left = [i for i in first + second if i not in summed]
    return product.permute([left.index(i) for i in result])


def _narrow(x, dim, start, length):
    # `narrow` has no batching rule for a tensor as the start; GPT-2, OPT and
    # Gemma slice positions and masks that way. Keras passes the length as a
    # tensor too: it is the same for all rows, and is read without tracing.
    if isinstance(length, torch.Tensor):
        if torch._is_functional_tensor(length):
            length = torch._from_functional_tensor(length)
        length = int(length.cpu().numpy())
    index = start + torch.arange(length, device=x.device)
    return torch.index_select(x, dim, index)


def _one_hot(x, num_classes):
    # The original reads the values to check their range.
    classes = torch.arange(num_classes, device=x.device)
    return (x[..., None] == classes).to(torch.int64)


def _attention(query, key, value, attn_mask=None, *args, **kwargs):
    is_batched = any(map(is_batchedtensor, (query, key, value)))
    attend = _Attention.apply if is_batched else _Attention.forward
    return attend(query, key, value, attn_mask, args, kwargs)


class _Attention(Function):
    """`scaled_dot_product_attention` with a batching rule: one larger batch."""

    @staticmethod
    def forward(query, key, value, mask, args, kwargs):
        return functional.scaled_dot_product_attention(
            query, key, value, mask, *args, **kwargs
        )

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def vmap(info, in_dims, query, key, value, mask, args, kwargs):
        def merge(x, dim):
            """From `(rows, batch, ...)` to `(rows * batch, ...)`."""
            if x is None:
                return None
            if dim is None:
                x = x.expand(info.batch_size, *x.shape)
            else:
                x = x.movedim(dim, 0)
            return x.flatten(0, 1)

        tensors = map(merge, (query, key, value, mask), in_dims)
        output = _Attention.forward(*tensors, args, kwargs)
        return output.unflatten(0, (info.batch_size, -1)), 0


_SUBSTITUTES = {
    torch.einsum: _einsum,
    torch.narrow: _narrow,
    functional.one_hot: _one_hot,
    functional.scaled_dot_product_attention: _attention,
}
