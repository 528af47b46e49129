"""Responses are written with short caches first, then with long ones."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_skd
from keras_skd import acceptance
from keras_skd import rollouts
from keras_skd.decoding import _stages
from keras_skd.decoding._stages import ShortFirst
from keras_skd.decoding._stages import cache_stages
from tests.support.writing import prompts
from tests.support.writing import random_causal_lm

LENGTH = 48
ROLLOUTS = {
    "on_policy": rollouts.OnPolicy,
    "speculative": lambda: rollouts.Speculative(acceptance.TopK(4)),
    "three drafts": lambda: rollouts.Speculative(num_speculative_tokens=3),
    "mixture": lambda: rollouts.Mixture(
        [(rollouts.Speculative(num_speculative_tokens=3), 2), ("teacher", 1)]
    ),
}


by_xla = pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="compiles when a row needs it"
)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(_stages, "_SHORTEST", 16)


def test_lengths():
    assert cache_stages(16) == [(0, 16)]
    assert cache_stages(65) == [(0, 16), (16, 64), (64, 65)]
    for length in (16, 64):
        with _stages.ShortCaches(length) as caches:
            assert cache_stages(16) == [(0, 16)]
            assert not caches.are_used
            assert cache_stages(65)[-1][1] == length
            assert caches.are_used
    assert len(cache_stages(65)) == 3


class Runs:
    """Runs rollouts, and notes the lengths of their caches, `None` for all.

    Args:
        rollout: str, a key of `ROLLOUTS`.
        stop_token_ids: tuple of ints, of 12 tokens.
        whole: bool. Whether short caches are never tried.
    """

    def __init__(self, rollout, stop_token_ids, whole=False):
        self.lengths = []
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(keras_skd.Distiller, "_short_first", self._noted)
            self.distiller = keras_skd.Distiller(
                *(
                    random_causal_lm(
                        name, seed, num_layers=1, vocabulary_size=12
                    )
                    for name, seed in (("llama", 0), ("gpt2", 1))
                ),
                ROLLOUTS[rollout](),
                stop_token_ids=stop_token_ids,
            )
            self.distiller.compile(optimizer="sgd", metrics=[])
        self.short_first._is_enough = not whole

    def _noted(self, run, rollout):
        def noted(batch, short_caches, *args):
            self.lengths.append(short_caches and short_caches.length)
            return run(batch, short_caches, *args)

        self.short_first = ShortFirst(noted, rollout._longest_draft)
        return self.short_first

    def __call__(self, batch, seed=0):
        self.distiller.rollout.set_seed(seed)
        batch = {k: ops.convert_to_tensor(v) for k, v in batch.items()}
        written = self.distiller.rollout_function(batch)
        states = self.distiller.rollout.variables
        return (
            {k: ops.convert_to_numpy(v) for k, v in written.items()},
            [np.array(v) for v in states],
        )


def assert_equal(results, expected):
    written, states = results
    assert written.keys() == expected[0].keys()
    for name, value in written.items():
        # Sums over a longer cache are rounded differently.
        np.testing.assert_allclose(
            value, expected[0][name], atol=1e-5, err_msg=name
        )
    for state, other in zip(states, expected[1], strict=True):
        np.testing.assert_allclose(state, other, rtol=1e-6)


@by_xla
def test_rows_that_end_early():
    rollout, stop_token_ids = "mixture", tuple(range(1, 10))
    runs = Runs(rollout, stop_token_ids)
    # Of 16 rows, the last four go on in a batch of their own.
    batch = prompts([2, 3, 1, 4] * 4, LENGTH, vocabulary_size=12)
    assert_equal(runs(batch), Runs(rollout, stop_token_ids, whole=True)(batch))
    assert runs.lengths == [16]
    runs(batch, seed=1)
    assert runs.lengths == [16, 16]


@by_xla
def test_rows_that_do_not_end():
    runs = Runs("speculative", ())
    whole = Runs("speculative", (), whole=True)
    batch = prompts([2, 3, 1, 4] * 4, LENGTH, vocabulary_size=12)
    expected = whole(batch)
    assert expected[0]["padding_mask"].all()
    assert_equal(runs(batch), expected)
    # Once it was not enough, it is not tried again.
    assert_equal(runs(batch, seed=1), whole(batch, seed=1))
    assert runs.lengths == [16, None, None]


@by_xla
def test_rows_of_any_length():
    """Whatever position a draft ends at, no row is left unfinished."""
    runs = Runs("speculative", (1,))
    whole = Runs("speculative", (1,), whole=True)
    batch = prompts([2, 3], LENGTH, vocabulary_size=12)
    longest = set()
    for seed in range(200):
        runs.short_first._is_enough = True
        expected = whole(batch, seed)
        assert_equal(runs(batch, seed), expected)
        longest.add(expected[0]["padding_mask"].sum(1).max())
    assert longest >= {12, 13, 14, 15, 16, 17}


@by_xla
@pytest.mark.parametrize("length, tried", [(15, 16), (16, None)])
def test_the_data_says_what_is_tried(length, tried):
    runs = Runs("on_policy", tuple(range(12)))
    runs(prompts([2, length], LENGTH, vocabulary_size=12))
    assert runs.lengths == [tried]


@by_xla
@pytest.mark.parametrize("rollout", ["on_policy", "three drafts"])
def test_many_lengths(rollout):
    """TensorFlow 2.21 cannot compile a constant that goes through three."""
    sequence_length = 72
    assert len(cache_stages(sequence_length)) == 3
    batch = prompts([2, 3, 1, 4] * 4, sequence_length, vocabulary_size=12)
    written, _ = Runs(rollout, (), whole=True)(batch)
    assert written["padding_mask"].all()


@by_xla
def test_a_window_of_one_length():
    runs = Runs("on_policy", ())
    runs(prompts([2, 3], 16, vocabulary_size=12))
    assert runs.lengths == [None]


@by_xla
@pytest.mark.parametrize(
    "stop_token_ids, tried",
    [(tuple(range(1, 10)), [16] * 4), ((), [16] + [None] * 4)],
)
def test_fit_and_evaluate(stop_token_ids, tried):
    batch = prompts([2, 3, 1, 4], LENGTH, vocabulary_size=12)

    def train(whole):
        runs = Runs("speculative", stop_token_ids, whole)
        trained = runs.distiller
        trained.rollout.set_seed(3)
        arguments = {"batch_size": 2, "verbose": 0}
        history = trained.fit(batch, shuffle=False, **arguments).history
        history["val"] = trained.evaluate(batch, **arguments)
        weights = [np.array(w) for w in trained.student.get_weights()]
        return history, weights, runs.lengths

    history, weights, lengths = train(whole=False)
    assert lengths == tried
    expected, expected_weights, _ = train(whole=True)
    for name, values in history.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-5)
    for value, other in zip(weights, expected_weights, strict=True):
        np.testing.assert_allclose(value, other, atol=1e-5)
