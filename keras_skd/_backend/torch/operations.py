import contextlib
import warnings

import keras
import torch
from keras import tree
from torch._C._functorch import is_batchedtensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from keras_skd._backend.torch.graph import Graph
from keras_skd._backend.torch.products import Multiplication

# What replayed functions read, while nothing is trained: see `held_weights`.
_held = []


@contextlib.contextmanager
def held_weights():
    """Lets replayed functions look at the models' weights once in a while.

    To list the variables of a model, and to read them, takes as long as half of
    a small student's step. In here, no weight may be changed.
    """
    _held.append({})
    try:
        yield
    finally:
        _held.pop()


def replayed(function, variables, donated=None):
    graphs = {}

    def trace(state, values, arguments):
        def stateless(values, *arguments):
            with keras.StatelessScope(zip(state, values)), row_map_scope():
                return function(*arguments)

        try:
            return Graph(stateless, values, arguments, donated)
        except Exception as error:
            warnings.warn(
                "A decoding step cannot be traced, and runs in Python at each "
                f"token, which takes longer ({type(error).__name__}).",
                stacklevel=2,
            )
            return None

    def call(*arguments):
        held = _held[-1] if _held else {}
        if call not in held:
            state = variables()
            held[call] = state, [v.value for v in state], {}
        state, values, prepared = held[call]
        tensors = tree.flatten(arguments)
        shapes = tuple((x.shape, x.dtype) for x in tensors)
        if shapes not in prepared:
            key = (*(id(v) for v in state), *shapes)
            if key not in graphs:
                graphs[key] = trace(state, values, arguments)
            graph = graphs[key]
            weights = graph.prepare(values) if graph else None
            prepared[shapes] = graph, weights
        graph, weights = prepared[shapes]
        if graph is None:
            return function(*arguments)
        return graph(weights, tensors)

    return call


def value_and_gradients(function, arguments, totals):
    arguments = [x.detach().requires_grad_() for x in arguments]
    first = len(arguments) - len(totals)
    multiply = Multiplication(list(zip(arguments[first:], totals)))
    with torch.enable_grad(), _Substitution({torch.matmul: multiply}):
        value = function(*arguments)
        gradients = torch.autograd.grad(value, arguments, allow_unused=True)
    for total, gradient in zip(totals, gradients[first:]):
        if gradient is not None:
            total.add_(gradient)
    gradients = [
        torch.zeros_like(x) if gradient is None else gradient
        for x, gradient in zip(arguments[:first], gradients)
    ]
    return value.detach(), [*gradients, *totals]


def scale(x, factor):
    result = x.mul_(factor).detach()
    # To what nobody else holds on to, autograd may add in place.
    x.set_()
    return result


def row_map_scope():
    """Puts operations that `torch.vmap` and tracing can follow in the place of
    those they cannot, or that would be done one row at a time.
    """
    return _Substitution(_FOR_ROWS)


class _Substitution(TorchFunctionMode):
    """Calls other functions in the place of some."""

    def __init__(self, substitutes):
        super().__init__()
        self._substitutes = substitutes

    def __torch_function__(self, function, types, args=(), kwargs=None):
        function = self._substitutes.get(function, function)
        return function(*args, **(kwargs or {}))


def _einsum(equation, *operands):
    # To PyTorch, an einsum is a batched matrix product: under `vmap`, each row
    # is multiplied with a copy of the weights. A `tensordot` takes all rows
    # together.
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
    # There is no batching rule for a tensor as the start: GPT-2, OPT and Gemma
    # read positions and masks that way. Keras gives the length as a tensor,
    # too; it is the same for all rows, and read by what is no operation.
    if isinstance(length, torch.Tensor):
        if torch._is_functional_tensor(length):
            length = torch._from_functional_tensor(length)
        length = int(length.cpu().numpy())
    index = start + torch.arange(length, device=x.device)
    return torch.index_select(x, dim, index)


def _one_hot(x, num_classes):
    # The original looks at the values, to see whether they are classes.
    classes = torch.arange(num_classes, device=x.device)
    return (x[..., None] == classes).to(torch.int64)


def _attention(
    query,
    key,
    value,
    attn_mask=None,
    dropout_p=0.0,
    is_causal=False,
    scale=None,
    enable_gqa=False,
):
    options = {
        "dropout_p": dropout_p,
        "is_causal": is_causal,
        "scale": scale,
        "enable_gqa": enable_gqa,
    }
    if any(map(is_batchedtensor, (query, key, value))):
        return _Attention.apply(query, key, value, attn_mask, options)
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask, **options
    )


class _Attention(torch.autograd.Function):
    """`scaled_dot_product_attention`, where rows of `vmap` become a batch."""

    @staticmethod
    def forward(query, key, value, mask, options):
        return functional.scaled_dot_product_attention(
            query, key, value, mask, **options
        )

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def vmap(info, in_dims, query, key, value, mask, options):
        def join(x, dim):
            """From `(rows, batch, ...)` to `(rows * batch, ...)`."""
            if x is None:
                return None
            if dim is None:
                x = x.expand(info.batch_size, *x.shape)
            else:
                x = x.movedim(dim, 0)
            return x.flatten(0, 1)

        tensors = (query, key, value, mask)
        output = functional.scaled_dot_product_attention(
            *(join(x, dim) for x, dim in zip(tensors, in_dims)), **options
        )
        return output.unflatten(0, (info.batch_size, -1)), 0


_FOR_ROWS = {
    torch.einsum: _einsum,
    torch.narrow: _narrow,
    functional.one_hot: _one_hot,
    functional.scaled_dot_product_attention: _attention,
}
