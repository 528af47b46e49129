"""Lossless speculative decoding, against enumerated distributions."""

import itertools

import keras_hub
import numpy as np
import pytest
from keras import ops

import keras_skd
from keras_skd import acceptance
from keras_skd import rollouts
from tests.support import frequencies
from tests.support import tokenizers
from tests.support import writing

# Few enough sequences to enumerate: a prompt, then up to three tokens of
# five, of which one ends the sequence.
SIZE = 5
STOP = 4
PROMPT = [1, 3]
NEW = 3
LENGTH = len(PROMPT) + NEW


def _temperature(value):
    return lambda p: p**value / (p**value).sum(-1, keepdims=True)


def _nucleus(mass):
    def truncate(p):
        order = np.argsort(-p, axis=-1)
        ranked = np.take_along_axis(p, order, axis=-1)
        ranked = np.where(np.cumsum(ranked, -1) - ranked <= mass, ranked, 0)
        p = np.take_along_axis(ranked, np.argsort(order, axis=-1), axis=-1)
        return p / p.sum(-1, keepdims=True)

    return truncate


# Sampler -> its distribution, from a model's probabilities.
SAMPLERS = {
    "random": ("random", _temperature(1.0)),
    "temperature": (
        keras_hub.samplers.RandomSampler(temperature=0.7),
        _temperature(1 / 0.7),
    ),
    "top-p": (keras_hub.samplers.TopPSampler(p=0.9), _nucleus(0.9)),
}


class Chances:
    """The probability of each token at each position, for two models."""

    def __init__(self, *models):
        self.sequences = np.array(
            [
                [*PROMPT, *tokens]
                for tokens in itertools.product(range(SIZE), repeat=NEW)
            ],
            "int32",
        )
        self.by_model = [self._softmax(model) for model in models]

    def _softmax(self, model):
        logits = writing.forward(model)(self.sequences).astype("float64")
        exp = np.exp(logits - logits.max(-1, keepdims=True))
        return (exp / exp.sum(-1, keepdims=True))[:, len(PROMPT) - 1 : -1]

    def of_sequences(self, chances):
        """The probability of each sequence, given those of each token."""
        result = {}
        for sequence, p in zip(self.sequences, chances):
            tokens = _ended(sequence[len(PROMPT) :])
            result[tokens] = np.prod([p[i, t] for i, t in enumerate(tokens)])
        return result


def _ended(tokens):
    tokens = tuple(int(t) for t in tokens)
    return tokens[: tokens.index(STOP) + 1] if STOP in tokens else tokens


def _counts(written, keys):
    counts = dict.fromkeys(keys, 0)
    for row, mask in zip(written["token_ids"], written["padding_mask"]):
        assert row[: len(PROMPT)].tolist() == PROMPT
        counts[tuple(row[mask][len(PROMPT) :].tolist())] += 1
    return counts


def _prompts(rows):
    mask = np.arange(LENGTH) < len(PROMPT)
    return {
        "token_ids": np.tile([*PROMPT, *[0] * NEW], (rows, 1)).astype("int32"),
        "padding_mask": np.tile(mask, (rows, 1)),
    }


@pytest.fixture(scope="module")
def models():
    teacher, student = (
        writing.random_causal_lm(
            "llama", seed=seed, num_layers=1, vocabulary_size=SIZE
        )
        for seed in (3, 4)
    )
    return teacher, student, Chances(teacher, student)


@pytest.fixture(scope="module")
def generate(models):
    teacher, student, _ = models
    distiller = keras_skd.Distiller(
        teacher, student, stop_token_ids=(STOP,), seed=1
    )
    return distiller.generate


@pytest.mark.parametrize("name", SAMPLERS)
def test_generated_is_distributed_as_the_teachers_own(models, generate, name):
    _, _, chances = models
    sampler, transform = SAMPLERS[name]
    expected, students = (
        chances.of_sequences(transform(p)) for p in chances.by_model
    )
    assert sum(expected.values()) == pytest.approx(1)
    written, statistics = generate(
        _prompts(4096), sampler=sampler, return_statistics=True
    )
    counts = _counts(written, expected)
    frequencies.check(list(counts.values()), list(expected.values()))
    # The same test tells the student's sequences from the teacher's.
    own = list(students.values())
    assert frequencies.p_value(list(counts.values()), own) < 1e-12
    # Some drafts were accepted, which saved passes of the teacher.
    assert 0.2 < statistics["acceptance_rate"] < 0.95
    assert statistics["tokens_per_teacher_call"] > 1


@pytest.mark.parametrize(("rows", "calls"), [(1, 20), (8, 40)])
def test_small_batches_are_distributed_likewise(models, generate, rows, calls):
    _, _, chances = models
    expected = chances.of_sequences(chances.by_model[0])
    counts = np.zeros(len(expected))
    for _ in range(calls):
        written = generate(_prompts(rows))
        counts += list(_counts(written, expected).values())
    assert counts.sum() == rows * calls
    frequencies.check(counts, list(expected.values()))
    # Every call draws different tokens.
    assert (counts > 0).sum() > 3


@pytest.mark.parametrize(
    ("rule", "gamma"),
    [
        # The seed of the sampler below, which must not repeat these draws.
        (acceptance.Lossless(seed=3), 1.0),
        (acceptance.Interpolated(gamma=0.3), 0.3),
    ],
    ids=["lossless", "interpolated"],
)
def test_rollouts_write_exact_samples(models, rule, gamma):
    teacher, student, chances = models
    rollout = rollouts.Speculative(
        acceptance=rule,
        # As many drafts as the vocabulary has tokens: with equal shapes, draws
        # from one seed would coincide.
        num_speculative_tokens=SIZE,
        student_sampler=keras_hub.samplers.RandomSampler(
            temperature=0.8, seed=3
        ),
    )
    written = writing.write(
        rollout, teacher, student, _prompts(4096), (STOP,), seed=2
    )
    p, q = chances.by_model
    q = _temperature(1 / 0.8)(q)
    values = []
    for g in (gamma, gamma - 0.25, 0.65):
        expected = chances.of_sequences((1 - g) * q + g * p)
        counts = list(_counts(written, expected).values())
        values.append(frequencies.p_value(counts, list(expected.values())))
    right, *wrong = values
    assert right > 1e-4
    assert max(wrong) < 1e-6


# Text and statistics.

TEXTS = ["Alice was", "Would you tell me, please", "The King said"]
LONG = 16


@pytest.fixture(scope="module")
def texts():
    """Two models with the same vocabulary that agree on some tokens."""
    preprocessor = tokenizers.llama3(sequence_length=LONG)
    teacher, student = (
        writing.random_causal_lm(
            "llama3",
            seed=1,
            num_layers=1,
            vocabulary_size=preprocessor.tokenizer.vocabulary_size(),
            preprocessor=preprocessor,
        )
        for _ in range(2)
    )
    rng = np.random.default_rng(0)
    for weight in student.weights:
        noise = rng.normal(size=weight.shape)
        weight.assign(ops.convert_to_numpy(weight) + 0.05 * noise)
    return keras_skd.Distiller(teacher, student)


def test_greedy_text_is_the_teachers_own(texts):
    texts.teacher.compile(sampler="greedy")
    expected = texts.teacher.generate(TEXTS, max_length=LONG)
    written, statistics = texts.generate(
        TEXTS, sampler="greedy", return_statistics=True
    )
    assert written == list(expected)
    assert 0.1 < statistics["acceptance_rate"] < 0.95
    stripped = texts.generate(TEXTS, sampler="greedy", strip_prompt=True)
    assert all(stripped)
    assert [p + s for p, s in zip(TEXTS, stripped)] == written


def test_one_string_and_a_length_of_its_own(texts):
    """One string in, one string out, of that many tokens."""
    prompt, expected = TEXTS[-1], texts.generate(TEXTS, sampler="greedy")[-1]
    written = texts.generate(prompt, max_length=LONG - 4, sampler="greedy")
    assert isinstance(written, str)
    assert expected.startswith(written)
    assert len(prompt) < len(written) < len(expected)


def _same():
    """A teacher of two layers, of which the second does nothing, and the first.

    No draft of such a student is rejected, and it pays to draft many.
    """
    teacher, student = (
        writing.random_causal_lm(
            "llama", seed=3, num_layers=num_layers, vocabulary_size=SIZE
        )
        for num_layers in (2, 1)
    )
    for layer in student.backbone.layers:
        copied = teacher.backbone.get_layer(layer.name)
        layer.set_weights(copied.get_weights())
    for weight in teacher.backbone.get_layer("transformer_layer_1").weights:
        weight.assign(np.zeros(weight.shape))
    return keras_skd.Distiller(teacher, student, seed=1)


def test_a_student_that_knows_the_teacher_is_never_rejected():
    distiller = _same()
    batch = writing.prompts([3] * 16, 3 + 36, vocabulary_size=SIZE)
    rates = []
    for _ in range(4):
        _, statistics = distiller.generate(batch, return_statistics=True)
        assert statistics["acceptance_rate"] == 1.0
        rates.append(statistics["tokens_per_teacher_call"])
    # The number of drafts grows with the acceptance rate, up to 4. With the
    # bonus token, that is 5 tokens a call, and 36 tokens in eight calls.
    assert rates == sorted(rates)
    assert rates[0] < 4.5
    assert rates[-1] == 4.5


@pytest.mark.parametrize("sampler", ["random", "greedy"])
def test_prompts_of_one_token(sampler):
    """The student reads two tokens at a time, where there are two."""
    batch = writing.prompts([1] * 64 + [2, 5], 8, vocabulary_size=SIZE)
    _, statistics = _same().generate(
        batch, sampler=sampler, return_statistics=True
    )
    assert statistics["acceptance_rate"] == 1.0


def test_no_row_waits_for_another(models):
    """The teacher reads each row as often as if it were alone."""
    teacher, student, _ = models
    rollout = rollouts.Speculative(
        acceptance=acceptance.Lossless(),
        num_speculative_tokens=3,
        student_sampler="greedy",
        teacher_sampler="greedy",
    )
    distiller = keras_skd.Distiller(
        teacher, student, rollout, stop_token_ids=(STOP,)
    )
    batch = writing.prompts([2, 3, 9, 3, 1, 5, 4, 2], 24, vocabulary_size=SIZE)

    def written(batch):
        batch = {k: ops.convert_to_tensor(v) for k, v in batch.items()}
        keys = "token_ids", "sources", "num_teacher_calls", "num_tested"
        rollout = distiller.rollout_function(batch)
        return {k: ops.convert_to_numpy(rollout[k]) for k in keys}

    together = written(batch)
    assert len({*together["num_teacher_calls"].tolist()}) > 3
    for i in range(len(together["num_teacher_calls"])):
        alone = written({k: v[i : i + 1] for k, v in batch.items()})
        for key, value in alone.items():
            np.testing.assert_array_equal(value[0], together[key][i])


def test_bad_input(models, generate, texts):
    for call, error, words in (
        (
            lambda: generate(_prompts(2), max_length=9),
            ValueError,
            ["`max_length`", "9", "`preprocessor`"],
        ),
        (
            lambda: generate(_prompts(2), sampler="beam"),
            ValueError,
            ["`sampler`", "BeamSampler", "'top_p'"],
        ),
        (
            lambda: generate(_prompts(2), sampler=0.7),
            TypeError,
            ["`sampler`", "0.7", "float"],
        ),
        (lambda: generate("Alice"), TypeError, ["dict", "str"]),
        (
            lambda: texts.generate(TEXTS, max_length=2),
            ValueError,
            ["no room", "row 0", "'Alice was'"],
        ),
        (
            lambda: texts.generate(TEXTS, max_length=12.0),
            TypeError,
            ["`max_length`", "12.0", "float"],
        ),
    ):
        with pytest.raises(error) as info:
            call()
        for word in words:
            assert word in str(info.value), str(info.value)
