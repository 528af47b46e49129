import contextlib

import torch
from keras import tree

from keras_skd._backend.torch.products import AccumulatingMatmul
from keras_skd._backend.torch.vmap import Substitution

# Graphs do both.
attention_scope = contextlib.nullcontext
unstacks_caches = False


def on_each_device(function, rows):
    return function(rows, lambda x: x)


def value_and_gradients(function, arguments, totals):
    arguments = [x.detach().requires_grad_() for x in arguments]
    first = len(arguments) - len(totals)
    matmul = AccumulatingMatmul(list(zip(arguments[first:], totals)))
    with torch.enable_grad(), Substitution({torch.matmul: matmul}):
        value, aux = function(*arguments)
        gradients = torch.autograd.grad(value, arguments, allow_unused=True)
    for total, gradient in zip(totals, gradients[first:]):
        if gradient is not None:
            total.add_(gradient)
    gradients = [
        torch.zeros_like(x) if gradient is None else gradient
        for x, gradient in zip(arguments[:first], gradients)
    ]
    value = tree.map_structure(lambda x: x.detach(), (value, aux))
    return value, [*gradients, *totals]


def scale_in_place(x, factor):
    result = x.mul_(factor).detach()
    # Drops the last other reference, so that autograd can accumulate in place.
    x.set_()
    return result


def global_random_state():
    states = [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]
    return [state.numpy() for state in states]


def set_global_random_state(states):
    cpu, *gpus = map(torch.from_numpy, states)
    torch.set_rng_state(cpu)
    if len(gpus) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(gpus)
