import gc

import keras
import pytest

if keras.config.backend() != "torch":
    pytest.skip("graphs of PyTorch operations", allow_module_level=True)

import numpy as np
import torch
from keras import ops

from keras_skd._backend import replay
from keras_skd._backend.torch.replay import frozen_weights
from keras_skd.decoding import CachedCausalLM
from tests.support.writing import forward
from tests.support.writing import random_causal_lm


def test_an_untraceable_function_runs_in_python():
    def function(x):
        return x * 2 if float(x.sum()) > 0 else x * 3

    call = replay(function, list)
    with pytest.warns(UserWarning, match="cannot be traced"):
        assert float(call(torch.tensor(1.0))) == 2.0
    assert float(call(torch.tensor(-1.0))) == -3.0


def test_replays_read_the_current_values():
    variable = keras.Variable([1.0, 2.0])
    call = replay(lambda x: x * variable, lambda: [variable])
    x = torch.tensor([1.0, 1.0])
    with torch.no_grad():
        assert call(x).tolist() == [1.0, 2.0]
        variable.assign([3.0, 4.0])
        assert call(x).tolist() == [3.0, 4.0]
        # A new shape is a new graph.
        assert call(x[None]).tolist() == [[3.0, 4.0]]


def test_weights_are_read_once_while_frozen():
    variable = keras.Variable([1.0, 2.0])
    lists = []

    def variables():
        lists.append([variable])
        return lists[-1]

    call = replay(lambda x: x * variable, variables)
    x = torch.tensor([1.0, 1.0])
    with torch.no_grad():
        for values in ([1.0, 2.0], [3.0, 4.0]):
            variable.assign(values)
            with frozen_weights():
                assert call(x).tolist() == values
                assert call(x + 0).tolist() == values
    assert len(lists) == 2


TOKEN_IDS = np.random.default_rng(0).integers(1, 32, (3, 6))


def replayed_logits(lm):
    """The logits of all tokens, each row at its own index of the cache."""
    token_ids = ops.convert_to_tensor(TOKEN_IDS, "int32")
    cache = lm.empty_cache(*TOKEN_IDS.shape)
    starts = torch.zeros(len(TOKEN_IDS), dtype=torch.int32)
    with frozen_weights():
        logits, _, cache = lm.extend_rows(token_ids, cache, starts)
        # Overwriting the cache with the same tokens changes nothing.
        again, _, _ = lm.extend_rows(token_ids, cache, starts)
    torch.testing.assert_close(again, logits)
    return ops.convert_to_numpy(logits.float())


@pytest.mark.parametrize(
    "dtype", ["bfloat16", "float16", "mixed_bfloat16", "mixed_float16"]
)
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma"])
def test_half_precision(architecture, dtype):
    model = random_causal_lm(architecture, dtype=dtype)
    actual = replayed_logits(CachedCausalLM(model))
    expected = forward(model)(TOKEN_IDS).astype("float32")
    exact = forward(random_causal_lm(architecture))(TOKEN_IDS)
    # The difference is that of rounding: the uncached logits differ as much
    # from float32's.
    assert np.abs(actual - expected).max() <= 2 * np.abs(expected - exact).max()


def enable_lora(model):
    model.backbone.enable_lora(2)
    for weight in model.trainable_weights:
        if "lora" in weight.path:
            weight.assign(0.2 * np.ones(weight.shape))


def quantize(model):
    gc.freeze()  # Keras collects garbage for each kernel that it replaces.
    model.quantize("int8")
    gc.unfreeze()


def replace_weights(model):
    model.set_weights([0.5 * weight for weight in model.get_weights()])


@pytest.mark.filterwarnings("ignore:Layer .* does not have a .quantize. method")
@pytest.mark.parametrize("change", [enable_lora, quantize, replace_weights])
def test_a_changed_model_is_traced_again(change):
    model = random_causal_lm()
    lm = CachedCausalLM(model)
    before = replayed_logits(lm)
    change(model)
    after = replayed_logits(lm)
    np.testing.assert_allclose(after, forward(model)(TOKEN_IDS), atol=1e-5)
    assert np.abs(after - before).max() > 1e-2
