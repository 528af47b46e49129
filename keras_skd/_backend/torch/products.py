"""Products of a few rows with large weights, by oneDNN.

On a CPU, oneDNN is up to twice as fast at them as PyTorch's own `mm`.
"""

import torch

# For smaller weights, the overhead of a oneDNN call outweighs its gain.
_SMALLEST_WEIGHTS = 2**17


def suits_onednn(x, weights):
    """Whether oneDNN is faster at `x @ weights`, where both are matrices."""
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


class AccumulatingMatmul:
    """`torch.matmul` whose weight gradients accumulate in place.

    The gradient of a head is as large as the head: allocating one for each
    chunk of positions takes several times as long as the product.

    Args:
        totals: list of pairs of weights and a tensor like them, to which
            `torch.autograd.grad` adds their gradient instead of returning it.
    """

    def __init__(self, totals):
        self._totals = totals

    def __call__(self, x, weights):
        if x.ndim == weights.ndim == 2 and suits_onednn(x, weights):
            return _Product.apply(x, weights, self._total(weights))
        return torch.matmul(x, weights)

    def _total(self, weights):
        """The total of `weights`, which may be a view, such as a transpose."""
        base = weights if weights._base is None else weights._base
        for argument, total in self._totals:
            if argument is base and argument.stride() == total.stride():
                return total.as_strided(
                    weights.shape, weights.stride(), weights.storage_offset()
                )
        return None


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weights, total):
        ctx.save_for_backward(x, weights)
        ctx.total = total
        return linear(x, weights.t())

    @staticmethod
    def backward(ctx, gradient):
        x, weights = ctx.saved_tensors
        needs_x, needs_weights, _ = ctx.needs_input_grad
        x_gradient = linear(gradient, weights) if needs_x else None
        if needs_weights and ctx.total is None:
            return x_gradient, x.t() @ gradient, None
        if needs_weights:
            ctx.total.addmm_(x.t(), gradient)
        return x_gradient, None, None
