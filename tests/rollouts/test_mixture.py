"""Mixture and Switch, whose rows come from different rollouts.

Some tests use parts that need no models: they record their inputs, and write
one token over and over.
"""

import inspect
import json

import keras
import keras_hub
import numpy as np
import pytest
from keras import ops

import keras_skd
from keras_skd import Source
from keras_skd import rollouts
from keras_skd import schedules
from keras_skd.decoding import rollout_of
from tests.support import frequencies
from tests.support import writing
from tests.support.algorithm_1 import write_greedily
from tests.support.causal_lms import VOCABULARY_SIZE

ROWS = 4000
LENGTH = 4


class Stub(rollouts.Rollout):
    """Writes one token to the end of each row that is not full."""

    def __init__(
        self, token, source=Source.STUDENT.value, is_speculative=False
    ):
        self.token = token
        self.source = int(source)
        self.is_speculative = is_speculative
        self.seed = None

    def set_seed(self, seed):
        self.seed = seed

    def call(self, batch, student, teacher, stop_token_ids=(), training_step=0):
        self.batch = {k: ops.convert_to_numpy(v) for k, v in batch.items()}
        prompt = ops.cast(batch["padding_mask"], "bool")
        written = rollout_of(
            ops.where(prompt, batch["token_ids"], self.token),
            ops.where(prompt, Source.PROMPT.value, self.source),
        )
        if self.is_speculative:
            written["draft_mask"] = written["response_mask"]
        return written


def _prompts():
    mask = np.arange(LENGTH) < 1 + np.arange(ROWS)[:, None] % (LENGTH - 1)
    return {"token_ids": mask.astype("int32"), "padding_mask": mask}


def _write(mixture, batch=None, step=0):
    batch = {
        key: ops.convert_to_tensor(value)
        for key, value in (batch or _prompts()).items()
    }
    written = mixture(batch, None, None, (), step)
    return {key: ops.convert_to_numpy(x) for key, x in written.items()}


def _authors(written, count):
    """How many rows end with each token from 10 on."""
    return np.bincount(written["token_ids"][:, -1] - 10, minlength=count)


def _stubs(count):
    return [Stub(10 + i) for i in range(count)]


def test_proportions():
    for weights in ([0.5, 0.5], [1, 2, 5], [3, 0, 0.5]):
        mixture = rollouts.Mixture(
            dict(zip(_stubs(len(weights)), weights)), seed=1
        )
        written = _write(mixture)
        frequencies.check(_authors(written, len(weights)), weights)
        # Drawn for each row of each batch.
        again = _write(mixture)
        assert (written["token_ids"] != again["token_ids"]).any()


def test_weights_may_be_schedules():
    mixture = rollouts.Mixture(
        dict(
            zip(
                _stubs(2),
                [schedules.Linear(1, 0, 10), schedules.Linear(0, 3, 10)],
            )
        ),
        seed=1,
    )
    for step, weights in ((0, [1, 0]), (4, [0.6, 1.2]), (10, [0, 3])):
        written = _write(mixture, step=ops.convert_to_tensor(step))
        frequencies.check(_authors(written, 2), weights)


def test_mixture_of_mixtures():
    a, b, c = _stubs(3)
    inner = rollouts.Mixture({a: 1, b: 3})
    mixture = rollouts.Mixture({inner: 0.5, c: 0.5})
    mixture.set_seed(1)
    frequencies.check(_authors(_write(mixture), 3), [1, 3, 4])


def test_rows_of_the_others_are_full():
    """Nothing is computed for them, and nothing in the result is theirs."""
    mixture = rollouts.Mixture(dict.fromkeys(_stubs(2), 1), seed=1)
    batch = _prompts()
    written = _write(mixture, batch)
    for stub in mixture.rollouts:
        mine = written["token_ids"][:, -1] == stub.token
        mask = stub.batch["padding_mask"]
        np.testing.assert_array_equal(mask[mine], batch["padding_mask"][mine])
        assert mask[~mine].all()
    np.testing.assert_array_equal(
        written["sources"],
        np.where(batch["padding_mask"], Source.PROMPT, Source.STUDENT),
    )


def test_data_goes_to_the_rollouts_that_take_it():
    batch = _prompts()
    batch = {
        "token_ids": np.full_like(batch["token_ids"], 20),
        "padding_mask": np.ones_like(batch["padding_mask"]),
        "response_mask": ~batch["padding_mask"],
    }

    class Writes(Stub):
        """Ignores the responses of the data, as rollouts that write do."""

        def call(self, batch, *args, **kwargs):
            mask = ops.cast(batch["padding_mask"], "bool")
            mask = mask & ~ops.cast(batch["response_mask"], "bool")
            return super().call(
                {**batch, "padding_mask": mask}, *args, **kwargs
            )

    mixture = rollouts.Mixture({"supervised": 1, Writes(10): 1}, seed=1)
    written = _write(mixture, batch)
    is_data = written["token_ids"][:, -1] == 20
    frequencies.check([is_data.sum(), (~is_data).sum()], [1, 1])
    expected = np.where(is_data, Source.DATA, Source.STUDENT)[:, None]
    np.testing.assert_array_equal(
        written["sources"],
        np.where(batch["response_mask"], expected, Source.PROMPT),
    )
    np.testing.assert_array_equal(
        written["token_ids"],
        np.where(batch["response_mask"] & ~is_data[:, None], 10, 20),
    )


def test_only_tested_drafts_count_as_tested():
    speculative, other = Stub(10, is_speculative=True), Stub(11)
    mixture = rollouts.Mixture({speculative: 1, other: 1}, seed=1)
    assert mixture.is_speculative
    written = _write(mixture)
    mine = written["token_ids"][:, -1:] == 10
    assert mine.any() and not mine.all()
    np.testing.assert_array_equal(
        written["draft_mask"], written["response_mask"] & mine
    )
    untested = rollouts.Mixture({other: 1}, seed=1)
    assert not untested.is_speculative
    assert "draft_mask" not in _write(untested)


@pytest.mark.parametrize("at_step", [0, 3])
def test_switch(at_step):
    switch = rollouts.Switch(*_stubs(2), at_step=at_step)
    for step in range(6):
        expected = [0, ROWS] if step >= at_step else [ROWS, 0]
        written = _write(switch, step=ops.convert_to_tensor(step))
        assert _authors(written, 2).tolist() == expected


@pytest.mark.parametrize(
    ("rollout", "needs_responses", "is_speculative"),
    [
        (rollouts.Mixture({"supervised": 1, "on_policy": 1}), True, False),
        (rollouts.Mixture({"teacher": 1, "speculative": 1}), False, True),
        (
            rollouts.Mixture({rollouts.Mixture({"supervised": 1}): 1}),
            True,
            False,
        ),
        (rollouts.Switch("supervised", "speculative", 1), True, True),
        (rollouts.Switch("teacher", "on_policy", 1), False, False),
    ],
)
def test_needs_of_the_parts_are_needs_of_the_whole(
    rollout, needs_responses, is_speculative
):
    assert rollout.needs_responses == needs_responses
    assert rollout.is_speculative == is_speculative


def test_seeds():
    def make(**kwargs):
        inner = rollouts.Mixture(dict.fromkeys(_stubs(2), 1))
        return rollouts.Mixture({inner: 1, "speculative": 1}, **kwargs)

    def choices(mixture):
        return [
            ops.convert_to_numpy(m.choose(50, 0)).tolist()
            for m in (mixture, next(iter(mixture.rollouts)))
        ]

    one, other = make(), make()
    one.set_seed(7)
    other.set_seed(7)
    first = choices(one)
    assert first == choices(other)
    assert first != choices(one)
    # Every part draws different numbers.
    assert first[0] != first[1]
    inner, speculative = one.rollouts
    seeds = [stub.seed for stub in inner.rollouts]
    for sampler in speculative.samplers().values():
        state = ops.convert_to_numpy(sampler.seed_generator.state)
        seeds.append(int(state[0]))
    assert len({*seeds}) == 4
    # A given seed is kept.
    mine = make(seed=3)
    mine.set_seed(7)
    assert choices(mine)[0] == choices(make(seed=3))[0]


def test_rows_are_those_of_the_rollouts():
    """All four kinds in one batch, each row as the rollout alone writes it."""
    teacher, student = (
        writing.random_causal_lm("llama", seed=seed, num_layers=1)
        for seed in (1, 2)
    )
    stop, length = 5, 12
    prompts = writing.prompts([2, 5, 1, 7, 3, 4, 11, 2, 6, 2, 9, 4], length)
    rng = np.random.default_rng(0)
    rows = len(prompts["token_ids"])
    data = np.where(
        prompts["padding_mask"],
        prompts["token_ids"],
        rng.integers(6, VOCABULARY_SIZE, (rows, length)),
    ).astype("int32")
    batch = {
        "token_ids": data,
        "padding_mask": np.ones_like(data),
        "response_mask": 1 - prompts["padding_mask"],
    }
    models = [writing.forward(model) for model in (student, teacher)]
    by_rollout = [
        (data, np.where(prompts["padding_mask"], Source.PROMPT, Source.DATA))
    ]
    for k in (VOCABULARY_SIZE, 0, 12):
        token_ids, written, margin = write_greedily(
            *models, k, prompts, (stop,)
        )
        assert margin > 1e-4
        by_rollout.append((token_ids * (written > 0), written))

    mixture = rollouts.Mixture(
        {
            "supervised": 1,
            rollouts.OnPolicy("greedy"): 1,
            rollouts.Teacher("greedy"): 1,
            rollouts.Speculative(
                keras_skd.acceptance.TopK(12),
                num_speculative_tokens=3,
                student_sampler="greedy",
                teacher_sampler="greedy",
            ): 1,
        },
        seed=4,
    )
    write = writing.writer(
        keras_skd.Distiller(teacher, student, mixture, stop_token_ids=(stop,))
    )
    count = sum(
        writing.count_authors(write(batch), by_rollout) for _ in range(4)
    )
    assert count.min() > 2


@keras.saving.register_keras_serializable(package="tests")
def last_log_prob(token_ids, segment, log_probs):
    return log_probs[:, -1]


SAMPLER = keras_hub.samplers.TopPSampler(p=0.9, k=7, temperature=0.5, seed=3)
# Every argument of every rollout, with a value other than its default.
ALL = {
    "supervised": rollouts.Supervised(),
    "on_policy": rollouts.OnPolicy(SAMPLER),
    "teacher": rollouts.Teacher(SAMPLER),
    "speculative": rollouts.Speculative(
        acceptance=keras_skd.acceptance.Typical(
            epsilon=schedules.Linear(0.1, 0.2, 10), delta=0.5
        ),
        num_speculative_tokens=3,
        student_sampler=SAMPLER,
        teacher_sampler="greedy",
        decoding="lockstep",
    ),
    "segments": rollouts.Segments(
        segment_end_token_ids=(4, 5),
        threshold=schedules.Cosine(-3.0, -1.0, 10),
        score=last_log_prob,
        student_sampler=SAMPLER,
        teacher_sampler="greedy",
    ),
    "mixture": rollouts.Mixture(
        {
            "supervised": 0.25,
            rollouts.Mixture({"on_policy": schedules.Linear(0, 1, 5)}): 0.75,
        },
        seed=3,
    ),
    "switch": rollouts.Switch(rollouts.Teacher("greedy"), "on_policy", 7),
}


@pytest.mark.parametrize("name", ALL)
def test_config_round_trip(name):
    rollout = ALL[name]
    saved = json.loads(json.dumps(keras.saving.serialize_keras_object(rollout)))
    restored = rollouts.get(saved)
    assert type(restored) is type(rollout)
    again = json.loads(
        json.dumps(keras.saving.serialize_keras_object(restored))
    )
    assert again == saved
    # Everything is saved.
    arguments = inspect.signature(type(rollout)).parameters
    assert set(saved["config"]) == set(arguments)


def test_names():
    for name, rollout in ALL.items():
        if name not in ("segments", "mixture", "switch"):
            made = rollouts.get(name)
            assert type(made) is type(rollout)
            assert type(rollouts.get(type(made))) is type(made)
        assert rollouts.get(rollout) is rollout


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: rollouts.Mixture({}), TypeError, ["`rollouts`", "{}"]),
        (
            lambda: rollouts.Mixture("supervised"),
            TypeError,
            ["`rollouts`", "'supervised'", "dict"],
        ),
        (
            lambda: rollouts.Mixture({"supervise": 1}),
            ValueError,
            ["'supervise'", "Did you mean 'supervised'?"],
        ),
        (
            lambda: rollouts.Mixture({"supervised": -0.5}),
            ValueError,
            ["`rollouts[0]`", "[0, inf)", "-0.5"],
        ),
        (
            lambda: rollouts.Mixture({"supervised": "half"}),
            TypeError,
            ["`rollouts[0]`", "'half'"],
        ),
        (
            lambda: rollouts.Mixture({"supervised": 0, "on_policy": 0.0}),
            ValueError,
            ["`rollouts`", "above 0", "[0, 0.0]"],
        ),
        (
            lambda: rollouts.Switch("supervised", "on_policy", at_step=2.0),
            TypeError,
            ["`at_step`", "2.0", "float"],
        ),
        (
            lambda: rollouts.Switch("supervised", "on_policy", at_step=-1),
            ValueError,
            ["`at_step`", "-1"],
        ),
        (
            lambda: rollouts.Switch("supervised", None, at_step=1),
            TypeError,
            ["`rollout`", "None"],
        ),
    ],
)
def test_bad_input(make, error, words):
    with pytest.raises(error) as info:
        make()
    for word in words:
        assert word in str(info.value), str(info.value)
