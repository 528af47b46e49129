import keras
import pytest

if keras.config.backend() != "torch":
    pytest.skip("how PyTorch multiplies", allow_module_level=True)

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from keras_skd._backend import scale_in_place
from keras_skd._backend import value_and_gradients
from keras_skd._backend.torch.products import linear
from keras_skd._backend.torch.products import suits_onednn

# One large enough for oneDNN, and one too small.
SIZES = [(64, 2048), (4, 8)]


def _expected(function, arguments):
    arguments = [x.clone().requires_grad_() for x in arguments]
    value = function(*arguments)
    gradients = torch.autograd.grad(
        value, arguments, allow_unused=True, materialize_grads=True
    )
    return value.detach(), gradients


def _arguments(dim, size):
    generator = torch.Generator().manual_seed(0)
    shapes = (3, dim), (size, dim)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def _log_sum_exp(x):
    return torch.logsumexp(x, dim=-1).sum()


FUNCTIONS = {
    "transposed": lambda x, w: _log_sum_exp(torch.matmul(x, w.T)),
    "as_it_is": lambda x, w: _log_sum_exp(torch.matmul(x @ w.T, w)),
    "a_part": lambda x, w: _log_sum_exp(torch.matmul(x, w[1:].T)),
    "a_copy": lambda x, w: _log_sum_exp(torch.matmul(x, 2 * w.T)),
    "read_elsewhere": lambda x, w: (
        _log_sum_exp(torch.matmul(x, w.T)) + (w**2).sum()
    ),
    "states_are_constant": lambda x, w: _log_sum_exp(
        torch.matmul(x.detach(), w.T)
    ),
    "weights_are_constant": lambda x, w: _log_sum_exp(
        torch.matmul(x, w.detach().T)
    ),
    "nothing_is_read": lambda x, w: torch.zeros((), requires_grad=True),
}


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_gradients_add_up(function, size):
    arguments = _arguments(*size)
    value, (x_gradient, w_gradient) = _expected(function, arguments)
    total = torch.ones_like(arguments[1])
    for times in (1, 2):
        result, gradients = value_and_gradients(function, arguments, [total])
        torch.testing.assert_close(result, value)
        torch.testing.assert_close(gradients[0], x_gradient)
        assert gradients[1] is total
        torch.testing.assert_close(
            total, 1 + times * w_gradient, atol=1e-4, rtol=1e-4
        )


def test_without_totals_gradients_are_new():
    arguments = _arguments(*SIZES[0])
    function = FUNCTIONS["read_elsewhere"]
    _, expected = _expected(function, arguments)
    for _ in range(2):
        _, gradients = value_and_gradients(function, arguments)
        torch.testing.assert_close(gradients, list(expected))


def test_a_total_of_another_layout():
    arguments = _arguments(*SIZES[0])
    function = FUNCTIONS["transposed"]
    _, (_, expected) = _expected(function, arguments)
    total = torch.zeros_like(arguments[1].T.contiguous()).T
    value_and_gradients(function, arguments, [total])
    torch.testing.assert_close(total, expected)


def test_products_are_onednns():
    x, weights = _arguments(*SIZES[0])
    assert suits_onednn(x, weights.T)
    torch.testing.assert_close(linear(x, weights), x @ weights.T)
    assert not suits_onednn(x.double(), weights.T.double())
    assert not suits_onednn(x, weights[:10].T)


class _Calls(TorchDispatchMode):
    """Counts the operations that are run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


def test_a_head_costs_two_products_of_onednn_and_a_sum_in_place():
    arguments = _arguments(*SIZES[0])
    total = torch.zeros_like(arguments[1])
    with _Calls() as calls:
        value_and_gradients(FUNCTIONS["transposed"], arguments, [total])
    assert calls.names.count("_linear_pointwise") == 2
    assert calls.names.count("addmm_") == 1
    assert "mm" not in calls.names


def test_what_is_scaled_is_consumed():
    x = torch.arange(3.0)
    result = scale_in_place(x, torch.tensor(2.0))
    assert result.tolist() == [0.0, 2.0, 4.0]
    assert x.numel() == 0
