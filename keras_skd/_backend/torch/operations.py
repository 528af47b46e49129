import torch

from keras_skd._backend.torch.products import AccumulatingMatmul
from keras_skd._backend.torch.vmap import Substitution


def value_and_gradients(function, arguments, totals):
    arguments = [x.detach().requires_grad_() for x in arguments]
    first = len(arguments) - len(totals)
    matmul = AccumulatingMatmul(list(zip(arguments[first:], totals)))
    with torch.enable_grad(), Substitution({torch.matmul: matmul}):
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


def scale_in_place(x, factor):
    result = x.mul_(factor).detach()
    # Drops the last other reference, so that autograd can accumulate in place.
    x.set_()
    return result
