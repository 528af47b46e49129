"""Batches from iterables: generators, `DataLoader`s, and others."""

import itertools
import warnings

import numpy as np
import pytest
import torch.utils.data

import keras_skd
from keras_skd._preprocessing import Packer
from keras_skd._preprocessing import gather
from keras_skd._preprocessing import prepare
from tests.support import bad_input
from tests.support import tokenizers

LENGTH = 12
PROMPTS = ["Alice was", "said the", "That depends", "The", "Would you"]
RESPONSES = [" very tired", " Cat.", " a good", " deal", " tell me"]
DATA = {"prompts": PROMPTS, "responses": RESPONSES}
ROWS = [dict(zip(DATA, row)) for row in zip(*DATA.values())]
BATCHES = [
    {key: values[i : i + 2] for key, values in DATA.items()}
    for i in range(0, len(PROMPTS), 2)
]


class Batches:
    """Can be iterated over again and again; counts how often it was."""

    def __init__(self, batches=BATCHES):
        self.batches = batches
        self.passes = self.drawn = 0

    def __iter__(self):
        self.passes += 1
        for batch in self.batches:
            self.drawn += 1
            yield batch


class BatchesWithLength(Batches):
    def __len__(self):
        return len(self.batches)


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return len(ROWS)

    def __getitem__(self, index):
        return ROWS[index]


class RowsInTurn(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(ROWS)


def _loader(dataset=None, **kwargs):
    return torch.utils.data.DataLoader(
        Rows() if dataset is None else dataset, batch_size=2, **kwargs
    )


STREAMS = {
    "generator": lambda: (batch for batch in BATCHES),
    "generator of tuples": lambda: ((batch,) for batch in BATCHES),
    "iterator": lambda: iter(BATCHES),
    "map": lambda: map(dict, BATCHES),
    "iterable": Batches,
    "iterable with a length": BatchesWithLength,
    "iterable of rows in lists": lambda: Batches(
        [ROWS[:2], ROWS[2:4], ROWS[4:]]
    ),
    "DataLoader": _loader,
    "DataLoader of rows": lambda: _loader(collate_fn=list),
    "DataLoader without a length": lambda: _loader(RowsInTurn()),
}


@pytest.fixture(scope="module")
def preprocessor():
    return tokenizers.gpt2(sequence_length=LENGTH)


def _distiller(preprocessor, **kwargs):
    size = preprocessor.tokenizer.vocabulary_size()
    models = [bad_input.gpt2(size, preprocessor=preprocessor) for _ in range(2)]
    distiller = keras_skd.Distiller(*models, rollout="supervised", **kwargs)
    distiller.compile(optimizer="sgd")
    return distiller


@pytest.fixture(scope="module")
def distiller(preprocessor):
    return _distiller(preprocessor)


@pytest.fixture(scope="module")
def loss(distiller):
    return distiller.evaluate(DATA, batch_size=2, verbose=0)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("make", STREAMS.values(), ids=STREAMS)
def test_evaluate(make, distiller, loss):
    received = distiller.evaluate(make(), verbose=0)
    np.testing.assert_allclose(received, loss, rtol=1e-5)


@pytest.mark.parametrize("make", STREAMS.values(), ids=STREAMS)
def test_all_rows(make, distiller):
    rollout = distiller.generate_rollout(make())
    for key, value in distiller.generate_rollout(DATA).items():
        np.testing.assert_array_equal(rollout[key], value, err_msg=key)


def _steps(distiller, x, **kwargs):
    """How many steps `fit` takes."""
    before = int(distiller.training_step.numpy())
    distiller.fit(x, verbose=0, **kwargs)
    return int(distiller.training_step.numpy()) - before


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("make", [Batches, BatchesWithLength])
def test_each_epoch_is_a_pass(make, distiller):
    data, validation = make(), make()
    steps = _steps(distiller, data, epochs=3, validation_data=validation)
    assert steps == 9
    # Keras' look at the first batches is a part of the first pass.
    assert (data.passes, data.drawn) == (3, 9)
    assert (validation.passes, validation.drawn) == (3, 9)


def test_known_lengths_end_without_a_warning(distiller):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert _steps(distiller, BatchesWithLength(), epochs=2) == 6
        assert _steps(distiller, _loader(shuffle=True), epochs=2) == 6


def test_without_an_end(distiller):
    endless = itertools.cycle(BATCHES)
    assert _steps(distiller, endless, epochs=2, steps_per_epoch=4) == 8
    # Fewer steps than a pass has: the next epoch goes on from there.
    data = Batches()
    assert _steps(distiller, data, epochs=3, steps_per_epoch=1) == 3
    assert data.passes == 1


def test_a_generator_in_several_epochs_is_keras_own(distiller):
    # Keras keeps the batches that it looked at, and says what is missing.
    with pytest.warns(UserWarning, match="ran out of data"):
        steps = _steps(distiller, (batch for batch in BATCHES), epochs=2)
    assert steps in (3, 5)


def test_shuffled_loaders_give_each_row_once(preprocessor):
    packed = gather(_loader(shuffle=True), Packer(preprocessor, LENGTH))
    expected = Packer(preprocessor, LENGTH)(DATA)
    assert sorted(packed["token_ids"].tolist()) == sorted(
        expected["token_ids"].tolist()
    )


def test_streams_stay_lazy(preprocessor):
    data = Batches(itertools.repeat(BATCHES[0]))
    packed, keys = prepare(data, Packer(preprocessor, LENGTH))
    assert keys == ("token_ids", "padding_mask", "response_mask")
    assert data.drawn <= 2


def test_nothing_is_begun_twice(distiller):
    # As a `DataLoader` with workers, which start when a pass does.
    class Eager(BatchesWithLength):
        def __iter__(self):
            self.passes += 1
            return iter(self.batches)

    data = Eager()
    distiller.evaluate(data, verbose=0)
    assert data.passes == 1


def test_token_ids_of_torch(preprocessor):
    expected = Packer(preprocessor, LENGTH)(DATA)
    rows = [
        {key: value[i] for key, value in expected.items()} for i in range(5)
    ]
    packed = gather(_loader(rows), Packer(None))
    for key, value in expected.items():
        np.testing.assert_array_equal(packed[key], value)
        assert packed[key].dtype == value.dtype


def test_batches_of_different_lengths():
    batches = [
        {"token_ids": np.ones((1, n), int), "padding_mask": np.ones((1, n))}
        for n in (3, 5)
    ]
    for batch in batches:
        batch["padding_mask"] = np.arange(batch["token_ids"].shape[1]) < 2
        batch["padding_mask"] = batch["padding_mask"][None]
    packed = gather(iter(batches), Packer(None))
    assert packed["token_ids"].tolist() == [[1, 1, 1, 0, 0], [1] * 5]
    assert packed["padding_mask"].sum(1).tolist() == [2, 2]


def test_skipped_rows_are_reported_once(preprocessor):
    long = {"prompts": [PROMPTS[0], " ".join(PROMPTS * 2)]}
    batches = [{"prompts": PROMPTS[:2]}, long, {"prompts": long["prompts"][1:]}]
    pack = Packer(preprocessor, LENGTH, long_prompts="skip")
    expected = Packer(preprocessor, LENGTH)(
        {"prompts": [*PROMPTS[:2], PROMPTS[0]]}
    )
    with pytest.warns(UserWarning, match="Skipped 2 of 5 prompts in `x`") as w:
        packed = gather(Batches(batches), pack)
    assert len(w) == 1
    np.testing.assert_array_equal(packed["token_ids"], expected["token_ids"])
    # It may have no end to report at.
    with pytest.warns(UserWarning, match="Skipped 1 of 4 prompts in `x`") as w:
        gather(iter(batches), pack)
    assert len(w) == 1
    with pytest.raises(ValueError, match="no batch with a row"):
        gather(Batches(batches[2:]), pack)
