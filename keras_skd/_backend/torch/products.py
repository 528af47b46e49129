"""Products of a few rows with large weights, by oneDNN.

On a CPU it is up to twice as fast with them as PyTorch's own `mm`, so that
`torch.compile` leaves them to it, too.
"""

import torch

# Below, a call of oneDNN takes longer than it gains.
_SMALLEST_WEIGHTS = 2**17


def suits_onednn(x, weights):
    """Whether `x @ weights`, of two matrices, is to be left to oneDNN."""
    return (
        torch.backends.mkldnn.is_available()
        and x.device.type == "cpu"
        and x.dtype == weights.dtype == torch.float32
        and weights.numel() >= _SMALLEST_WEIGHTS
    )


def linear(x, transposed):
    """`x @ transposed.T`, by oneDNN."""
    return torch.ops.mkldnn._linear_pointwise.default(
        x, transposed, None, "none", [], None
    )


class Multiplication:
    """`torch.matmul`, with gradients of weights that add up in place.

    The gradient of a head is as large as the head: to make it anew for each
    few positions takes several times as long as to add these positions to it.

    Args:
        totals: list of pairs of weights and a tensor like them, to which
            `torch.autograd.grad` adds their gradient, instead of returning it.
    """

    def __init__(self, totals):
        self._totals = totals

    def __call__(self, x, weights):
        if x.ndim == weights.ndim == 2 and suits_onednn(x, weights):
            return _Product.apply(x, weights, self._total(weights))
        return torch.matmul(x, weights)

    def _total(self, weights):
        """The part of a total that is the gradient of `weights`.

        A head may be a view of the weights, such as their transpose.
        """
        whole = weights if weights._base is None else weights._base
        for argument, total in self._totals:
            if argument is whole and argument.stride() == total.stride():
                return total.as_strided(
                    weights.shape, weights.stride(), weights.storage_offset()
                )
        return None


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(context, x, weights, total):
        context.save_for_backward(x, weights)
        context.total = total
        return linear(x, weights.t())

    @staticmethod
    def backward(context, gradient):
        x, weights = context.saved_tensors
        needs_x, needs_weights, _ = context.needs_input_grad
        x_gradient = linear(gradient, weights) if needs_x else None
        if needs_weights and context.total is None:
            return x_gradient, x.t() @ gradient, None
        if needs_weights:
            context.total.addmm_(x.t(), gradient)
        return x_gradient, None, None
