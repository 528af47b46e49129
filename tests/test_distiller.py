"""The distiller on real models, against NumPy float64 and plain autodiff."""

import itertools
import types

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import keras_skd
from keras_skd import rollouts
from tests.support import tokenizers
from tests.support.causal_lms import causal_lm
from tests.support.numerics import gradient

LENGTH = 12
PROMPT, STUDENT, TEACHER, DATA = 1, 2, 3, 4
PLAIN = dict(num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=8)
GROUPED = dict(
    num_layers=1,
    num_query_heads=2,
    num_key_value_heads=1,
    hidden_dim=8,
    intermediate_dim=8,
)


def _gpt2(seed, **kwargs):
    return causal_lm("gpt2", seed=seed, **{**PLAIN, "dropout": 0.0, **kwargs})


def _llama(seed, **kwargs):
    return causal_lm("llama", seed=seed, **GROUPED, **kwargs)


def _weights(model):
    return [np.array(ops.convert_to_numpy(w)) for w in model.weights]


def _logits(model, rollout):
    """The logits of KerasHub's own forward pass."""
    inputs = {k: rollout[k] for k in ("token_ids", "padding_mask")}
    return ops.convert_to_numpy(model(inputs)).astype("float64")


def _log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def _forward_kl(teacher_logits, student_logits, response_mask):
    """Eq. 1 of the paper, one token after another."""
    teacher = _log_softmax(teacher_logits)
    student = _log_softmax(student_logits)
    rows = []
    for row, mask in enumerate(response_mask):
        values = [
            sum(np.exp(p) * (p - q))
            for p, q, is_response in zip(
                teacher[row, :-1], student[row, :-1], mask[1:]
            )
            if is_response
        ]
        rows.append(np.mean(values) if values else 0.0)
    return np.mean(rows)


def _prompts(rows=4, seed=0):
    """Token ids of prompts whose lengths all differ."""
    ids = np.random.default_rng(seed).integers(4, 32, (rows, LENGTH))
    mask = np.arange(LENGTH) < 1 + np.arange(rows)[:, None]
    return {"token_ids": ids * mask, "padding_mask": mask}


# The records of a whole `fit`, on strings and with greedy samplers, so that
# NumPy can repeat every step.

TRAINING = {
    "prompts": ["Alice was", "Would you tell me, please", "The begin"],
}
VALIDATION = {
    "prompts": ["Alice was", "Would you tell me, please", "The begin", "said"],
    "responses": [" very tired", " which way", "ning", ""],
}
K = 60


class Observe(keras.callbacks.Callback):
    """Records, before each epoch, its rollout and the models' logits."""

    def __init__(self):
        super().__init__()
        self.epochs = []

    def on_epoch_begin(self, epoch, logs=None):
        distiller = self.model
        rollout = distiller.generate_rollout(TRAINING)
        self.epochs.append(
            types.SimpleNamespace(
                rollout=rollout,
                sources=rollout["sources"],
                student=_logits(distiller.student, rollout),
                teacher=_logits(distiller.teacher, rollout),
                weights=_weights(distiller.student),
            )
        )


@pytest.fixture(scope="module")
def trained():
    preprocessor = tokenizers.gpt2(sequence_length=LENGTH)
    arguments = dict(
        vocabulary_size=preprocessor.tokenizer.vocabulary_size(),
        preprocessor=preprocessor,
    )
    # Dropout in the teacher must never show.
    teacher = _gpt2(1, dropout=0.5, **arguments)
    student = _gpt2(2, **arguments)
    rollout = rollouts.Speculative(
        acceptance=keras_skd.acceptance.TopK(K),
        num_speculative_tokens=3,
        student_sampler="greedy",
        teacher_sampler="greedy",
    )
    distiller = keras_skd.Distiller(teacher, student, rollout=rollout)
    distiller.compile(optimizer=keras.optimizers.Adam(0.02))
    before = {"teacher": _weights(teacher), "student": _weights(student)}
    observed = Observe()
    history = distiller.fit(
        TRAINING,
        batch_size=3,
        epochs=3,
        validation_data=VALIDATION,
        callbacks=[observed],
        verbose=0,
    )
    return types.SimpleNamespace(
        distiller=distiller,
        teacher=teacher,
        student=student,
        before=before,
        epochs=observed.epochs,
        history=history.history,
    )


def test_history_counts_what_was_written(trained):
    assert set(trained.history) == {
        "loss",
        "acceptance_rate",
        "teacher_token_fraction",
        "response_length",
        "val_loss",
        "val_kl",
    }
    by_student = [(e.sources == STUDENT).sum() for e in trained.epochs]
    by_teacher = [(e.sources == TEACHER).sum() for e in trained.epochs]
    assert sum(by_student) > 0 and sum(by_teacher) > 0
    written = np.add(by_student, by_teacher)
    expected = {
        # Every token was drafted, and tested once.
        "acceptance_rate": by_student / written,
        "teacher_token_fraction": by_teacher / written,
        "response_length": written / len(TRAINING["prompts"]),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(trained.history[name], values, rtol=1e-6)


def test_every_token_is_the_one_of_algorithm_1(trained):
    for epoch in trained.epochs:
        _assert_algorithm_1(epoch.rollout, epoch.teacher, epoch.student)


def _assert_algorithm_1(rollout, teacher_logits, student_logits):
    written = np.argwhere(rollout["response_mask"])
    assert len(written) > 0
    for row, column in written:
        teacher = teacher_logits[row, column - 1]
        draft = np.argmax(student_logits[row, column - 1])
        accepted = (teacher > teacher[draft]).sum() < K
        token = draft if accepted else np.argmax(teacher)
        source = STUDENT if accepted else TEACHER
        assert rollout["token_ids"][row, column] == token
        assert rollout["sources"][row, column] == source


def test_loss_is_eq_1_on_what_was_written(trained):
    losses = [
        _forward_kl(e.teacher, e.student, e.rollout["response_mask"])
        for e in trained.epochs
    ]
    np.testing.assert_allclose(trained.history["loss"], losses, rtol=1e-4)
    assert losses[-1] < losses[0]


def test_prompts_survive_to_the_token(trained):
    packed = trained.distiller._pack(TRAINING)
    mask = packed["padding_mask"]
    for epoch in trained.epochs:
        np.testing.assert_array_equal(epoch.sources == PROMPT, mask)
        np.testing.assert_array_equal(
            epoch.rollout["token_ids"][mask], packed["token_ids"][mask]
        )


def test_rollout_is_right_padded_and_typed(trained):
    rollout = trained.epochs[0].rollout
    assert {k: (v.dtype.name, v.shape) for k, v in rollout.items()} == {
        "token_ids": ("int32", (3, LENGTH)),
        "padding_mask": ("bool", (3, LENGTH)),
        "response_mask": ("bool", (3, LENGTH)),
        "sources": ("int32", (3, LENGTH)),
        "draft_mask": ("bool", (3, LENGTH)),
    }
    mask = rollout["padding_mask"]
    assert (np.diff(mask.astype(int), axis=1) <= 0).all()
    np.testing.assert_array_equal(mask, rollout["sources"] > 0)
    np.testing.assert_array_equal(
        rollout["response_mask"], rollout["sources"] > PROMPT
    )
    assert (rollout["token_ids"][~mask] == 0).all()


def test_only_the_student_learns(trained):
    for old, new in zip(trained.before["teacher"], _weights(trained.teacher)):
        np.testing.assert_array_equal(old, new)
    for old, new in zip(trained.before["student"], _weights(trained.student)):
        assert (old != new).any()
    # In every epoch: rollouts in between have not stopped the training.
    for earlier, later in zip(trained.epochs, trained.epochs[1:]):
        assert (earlier.weights[0] != later.weights[0]).any()


def test_optimizer_holds_the_student_alone(trained):
    distiller = trained.distiller
    assert distiller.student is trained.student
    sizes = [int(np.prod(v.shape)) for v in distiller.optimizer.variables]
    # Adam: two moments of each weight, the iteration and the learning rate.
    assert sum(sizes) == 2 * trained.student.count_params() + 2


def test_evaluate_on_responses_samples_nothing(trained):
    distiller = trained.distiller
    packed = distiller._pack(VALIDATION)
    expected = _forward_kl(
        _logits(trained.teacher, packed),
        _logits(trained.student, packed),
        packed["response_mask"],
    )
    supervised = keras_skd.Distiller(
        trained.teacher, trained.student, rollout="supervised"
    )
    supervised.compile()
    logs = [
        model.evaluate(VALIDATION, batch_size=3, return_dict=True, verbose=0)
        for model in (distiller, distiller, supervised)
    ]
    assert [set(log) for log in logs] == [{"loss", "kl"}] * 3
    assert logs[0] == logs[1]
    assert logs[2]["loss"] == pytest.approx(logs[0]["loss"], rel=1e-6)
    assert logs[0]["loss"] == pytest.approx(expected, rel=1e-4)
    # The weights are those that the last epoch ended with.
    assert trained.history["val_loss"][-1] == pytest.approx(expected, rel=1e-4)


def test_evaluate_on_prompts_writes_the_responses(trained):
    distiller = trained.distiller
    logs = distiller.evaluate(
        TRAINING, batch_size=3, return_dict=True, verbose=0
    )
    rollout = distiller.generate_rollout(TRAINING)
    mask = rollout["response_mask"]
    kl = _forward_kl(
        _logits(trained.teacher, rollout),
        _logits(trained.student, rollout),
        mask,
    )
    expected = {
        "loss": kl,
        "kl": kl,
        "acceptance_rate": (rollout["sources"][mask] == STUDENT).mean(),
        "teacher_token_fraction": (rollout["sources"][mask] == TEACHER).mean(),
        "response_length": mask.sum() / 3,
    }
    assert logs == pytest.approx(expected, rel=1e-4)


def test_teacher_sees_a_prompt_of_its_own(trained):
    distiller = trained.distiller
    hints = ["said the Cat. Alice was tired", "", "go on till you come to"]
    data = {**TRAINING, "teacher_prompts": hints}
    rollout = distiller.generate_rollout(data)
    teacher = _own_view(trained.teacher, distiller._pack(data), rollout)
    student = _logits(trained.student, rollout)
    _assert_algorithm_1(rollout, teacher, student)
    plain = distiller.generate_rollout(TRAINING)
    assert (plain["token_ids"] != rollout["token_ids"]).any()

    data = {k: v[:3] for k, v in VALIDATION.items()}
    data["teacher_prompts"] = hints
    packed = distiller._pack(data)
    logs = distiller.evaluate(data, batch_size=3, return_dict=True, verbose=0)
    expected = _forward_kl(
        _own_view(trained.teacher, packed, packed),
        _logits(trained.student, packed),
        packed["response_mask"],
    )
    assert logs == pytest.approx({"loss": expected, "kl": expected}, rel=1e-4)


def _own_view(teacher, packed, rollout):
    """The teacher's logits after its own prompts, at the student's positions.

    Position for position, they predict the same token of the response.
    """
    ids = packed["teacher_token_ids"].copy()
    lengths = packed["teacher_padding_mask"].sum(axis=1)
    for row, mask in enumerate(rollout["response_mask"]):
        response = rollout["token_ids"][row][mask]
        ids[row, lengths[row] : lengths[row] + len(response)] = response
    logits = _logits(
        teacher, {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    )
    view = np.zeros((*rollout["token_ids"].shape, logits.shape[-1]))
    for row, mask in enumerate(rollout["response_mask"]):
        theirs, ours = lengths[row] - 1, np.argmax(mask) - 1
        view[row, ours : ours + mask.sum()] = logits[
            row, theirs : theirs + mask.sum()
        ]
    return view


def test_student_is_saved_alone(trained, tmp_path):
    trained.distiller.student.save_to_preset(str(tmp_path / "student"))
    loaded = keras_hub.models.CausalLM.from_preset(str(tmp_path / "student"))
    packed = loaded.preprocessor.generate_preprocess(
        TRAINING["prompts"], sequence_length=LENGTH
    )
    packed = {k: ops.convert_to_numpy(v) for k, v in packed.items()}
    np.testing.assert_array_equal(
        _logits(loaded, packed), _logits(trained.student, packed)
    )
    assert type(loaded) is type(trained.student)


# Data that is written by hand. Token 3 ends a response, also in mid-row, and
# ends nothing in a prompt. The last row has no response at all.

STOP = 3
TOKEN_IDS = [
    [7, 3, 9, 4, 5, 6, 8, 0, 0, 0, 0, 0],
    [5, 6, 9, 3, 8, 4, 0, 0, 0, 0, 0, 0],
    [4, 8, 7, 5, 6, 9, 4, 8, 5, 7, 6, 4],
    [9, 4, 6, 5, 0, 0, 0, 0, 0, 0, 0, 0],
]
RESPONSES = [range(3, 7), range(1, 6), range(2, 12), range(0)]
# The positions that predict what the loss covers: from the last token of the
# prompt to the one before the stop token.
WINDOW = [range(2, 6), range(3), range(1, 11), range(0)]


def _mask(ranges, length=LENGTH):
    return np.array([[i in r for i in range(length)] for r in ranges])


def _batch():
    ids = np.array(TOKEN_IDS, "int32")
    mask = _mask([range(7), range(6), range(12), range(4)])
    return {
        "token_ids": ids,
        "padding_mask": mask,
        "response_mask": _mask(RESPONSES),
    }


@pytest.fixture(scope="module")
def supervised():
    # Embeddings are tied, so the loss reaches them from both of their ends.
    distiller = keras_skd.Distiller(
        _gpt2(1), _gpt2(2), rollout="supervised", stop_token_ids=(STOP,)
    )
    distiller.compile(
        optimizer=keras.optimizers.SGD(0.5),
        metrics=[
            keras.metrics.SparseCategoricalAccuracy(),
            keras_hub.metrics.Perplexity(from_logits=True),
        ],
    )
    return distiller


def test_window_of_the_loss(supervised):
    rollout = supervised.generate_rollout(_batch())
    x = {k: ops.convert_to_tensor(v) for k, v in rollout.items()}
    hidden_states = ops.convert_to_numpy(supervised(x)["hidden_states"])

    def loss(h):
        return supervised.compute_loss(x, None, {"hidden_states": h})

    gradients = gradient(loss, hidden_states)
    np.testing.assert_array_equal(
        np.abs(gradients).max(axis=-1) > 0, _mask(WINDOW)
    )


def test_loss_and_metrics_cover_the_window(supervised):
    batch = _batch()
    student = _logits(supervised.student, batch)
    teacher = _logits(supervised.teacher, batch)
    student, teacher = _log_softmax(student), _log_softmax(teacher)
    losses, hits, log_probs = [], [], []
    for row, window in enumerate(WINDOW):
        values = []
        for position in window:
            p, q = teacher[row, position], student[row, position]
            token = batch["token_ids"][row, position + 1]
            values.append(sum(np.exp(p) * (p - q)))
            hits.append(np.argmax(q) == token)
            log_probs.append(q[token])
        # A row without a response counts as 0, and never as 0 / 0.
        losses.append(np.mean(values) if values else 0.0)
    expected = {
        "loss": np.mean(losses),
        "kl": np.mean(losses),
        "sparse_categorical_accuracy": np.mean(hits),
        "perplexity": np.exp(-np.mean(log_probs)),
    }
    logs = supervised.evaluate(batch, batch_size=4, return_dict=True, verbose=0)
    assert logs == pytest.approx(expected, rel=1e-4)


def test_a_step_is_gradient_descent_on_the_loss(supervised):
    batch, student = _batch(), supervised.student
    inputs = {k: batch[k] for k in ("token_ids", "padding_mask")}
    teacher_log_probs = _log_softmax(_logits(supervised.teacher, batch))
    variables = student.trainable_variables
    # The weight of each position in Eq. 1.
    weights = _mask(WINDOW) / np.maximum(_mask(WINDOW).sum(1), 1)[:, None] / 4

    def loss(flat):
        """Eq. 1 as a function of the student's weights, without the library."""
        sizes = [int(np.prod(v.shape)) for v in variables]
        parts = ops.split(flat, np.cumsum(sizes)[:-1].tolist())
        values = [ops.reshape(p, v.shape) for p, v in zip(parts, variables)]
        with keras.StatelessScope(list(zip(variables, values))):
            log_probs = ops.log_softmax(student(inputs))
        p = ops.convert_to_tensor(teacher_log_probs, "float32")
        kl = ops.sum(ops.exp(p) * (p - log_probs), axis=-1)
        return ops.sum(kl * ops.convert_to_tensor(weights, "float32"))

    before = np.concatenate(
        [ops.convert_to_numpy(v).ravel() for v in variables]
    )
    expected = before - 0.5 * gradient(loss, before)
    supervised.fit(batch, batch_size=4, verbose=0)
    after = np.concatenate([ops.convert_to_numpy(v).ravel() for v in variables])
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_allclose(after, expected, atol=1e-5)


def test_nothing_but_rows_without_a_response(supervised):
    batch = {k: np.repeat(v[-1:], 4, axis=0) for k, v in _batch().items()}
    before = _weights(supervised.student)
    history = supervised.fit(batch, batch_size=4, verbose=0).history
    assert history["loss"] == [0.0]
    assert history["response_length"] == [0.0]
    for old, new in zip(before, _weights(supervised.student)):
        np.testing.assert_array_equal(old, new)


# The arguments of `fit`.


class Batches(keras.utils.PyDataset):
    def __init__(self, columns, **kwargs):
        super().__init__(**kwargs)
        self.columns = columns

    def __len__(self):
        return 2

    def __getitem__(self, index):
        rows = slice(2 * index, 2 * index + 2)
        return {key: value[rows] for key, value in self.columns.items()}


INPUTS = {
    "columns": lambda x: x,
    "tf.data": lambda x: tf.data.Dataset.from_tensor_slices(x).batch(2),
    "PyDataset": Batches,
    "PyDataset of workers": lambda x: Batches(x, workers=2),
}


@pytest.fixture(scope="module")
def resting(trained):
    """A student that does not change, so that its losses can be compared."""
    distiller = keras_skd.Distiller(
        trained.teacher, trained.student, rollout="supervised"
    )
    distiller.compile(optimizer=keras.optimizers.SGD(0.0))
    return distiller


@pytest.mark.parametrize("make", INPUTS.values(), ids=INPUTS)
def test_fit_and_validate_on_any_input(resting, make):
    batch_size = 2 if make is INPUTS["columns"] else None
    packed = resting._pack(VALIDATION)
    expected = _forward_kl(
        _logits(resting.teacher, packed),
        _logits(resting.student, packed),
        packed["response_mask"],
    )
    history = resting.fit(
        make(VALIDATION),
        validation_data=make(VALIDATION),
        batch_size=batch_size,
        verbose=0,
    ).history
    assert history["loss"] == pytest.approx([expected], rel=1e-4)
    assert history["val_loss"] == pytest.approx([expected], rel=1e-4)


def test_workers_give_each_batch_once(resting):
    x = INPUTS["PyDataset of workers"](VALIDATION)
    losses = [resting.fit(x, verbose=0).history["loss"][0] for _ in range(12)]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-4)


def test_validation_split(resting):
    losses = []
    for rows in (slice(0, 2), slice(2, 4)):
        packed = resting._pack({k: v[rows] for k, v in VALIDATION.items()})
        losses.append(
            _forward_kl(
                _logits(resting.teacher, packed),
                _logits(resting.student, packed),
                packed["response_mask"],
            )
        )
    history = resting.fit(
        VALIDATION, validation_split=0.5, batch_size=2, verbose=0
    ).history
    assert history["loss"] == pytest.approx(losses[:1], rel=1e-4)
    assert history["val_loss"] == pytest.approx(losses[1:], rel=1e-4)


def test_steps_per_epoch(resting):
    before = int(resting.optimizer.iterations)
    dataset = INPUTS["tf.data"](VALIDATION).repeat()
    resting.fit(dataset, steps_per_epoch=3, epochs=2, verbose=0)
    assert int(resting.optimizer.iterations) == before + 6


def test_early_stopping_and_checkpoints(tmp_path):
    distiller = keras_skd.Distiller(_llama(1), _llama(2), rollout="supervised")
    # The first steps help, the next one diverges.
    rates = keras.optimizers.schedules.PiecewiseConstantDecay(
        [2], [0.05, 100.0]
    )
    distiller.compile(optimizer=keras.optimizers.SGD(rates))
    path = str(tmp_path / "best.weights.h5")
    history = distiller.fit(
        _batch(),
        batch_size=4,
        epochs=9,
        validation_data=_batch(),
        callbacks=[
            keras.callbacks.EarlyStopping(
                "val_loss", patience=1, restore_best_weights=True
            ),
            keras.callbacks.ModelCheckpoint(
                path, "val_loss", save_best_only=True, save_weights_only=True
            ),
        ],
        verbose=0,
    ).history
    losses = history["val_loss"]
    best = min(losses)
    assert len(losses) < 9 and losses[-1] > best and losses[0] > best
    evaluate = dict(batch_size=4, return_dict=True, verbose=0)
    restored = distiller.evaluate(_batch(), **evaluate)
    assert restored["loss"] == pytest.approx(best, rel=1e-5)

    distiller.student.set_weights([0 * w for w in _weights(distiller.student)])
    assert distiller.evaluate(_batch(), **evaluate)["loss"] != restored["loss"]
    distiller.load_weights(path)
    assert distiller.evaluate(_batch(), **evaluate) == restored


@pytest.mark.skipif(
    keras.config.backend() == "torch", reason="PyTorch runs eagerly"
)
def test_one_compilation_serves_a_whole_fit():
    class Counted(rollouts.Supervised):
        traces = 0

        def call(self, *args, **kwargs):
            self.traces += 1
            return super().call(*args, **kwargs)

    rollout = Counted()
    distiller = keras_skd.Distiller(_llama(1), _llama(2), rollout=rollout)
    distiller.compile(optimizer="sgd")
    # Prompts and responses of all lengths, in batches that are all different.
    batch = {k: np.repeat(v, 2, axis=0) for k, v in _batch().items()}
    distiller.fit(batch, batch_size=2, epochs=3, verbose=0)
    assert rollout.traces == 1
    # A last batch of one row has another shape.
    batch = {k: v[:7] for k, v in batch.items()}
    distiller.fit(batch, batch_size=2, epochs=3, verbose=0)
    assert rollout.traces == 2


# Sampling.


def test_seeds():
    teacher, student = _llama(1), _llama(2)

    def write(seed, sampler_seed=None):
        sampler = keras_hub.samplers.RandomSampler(seed=sampler_seed)
        distiller = keras_skd.Distiller(
            teacher, student, rollouts.OnPolicy(sampler), seed=seed
        )
        return [
            distiller.generate_rollout(_prompts())["token_ids"]
            for _ in range(2)
        ]

    first, second = write(seed=1)
    # The next step draws new tokens, and so does a different seed.
    assert (first != second).any()
    np.testing.assert_array_equal([first, second], write(seed=1))
    assert (first != write(seed=2)[0]).any()
    # A sampler with a seed of its own keeps it.
    own = write(seed=1, sampler_seed=7)
    assert (first != own[0]).any()
    np.testing.assert_array_equal(own, write(seed=2, sampler_seed=7))


@pytest.fixture(scope="module")
def on_policy():
    """A greedy student that writes alone, with a SentencePiece tokenizer."""
    preprocessor = tokenizers.gemma(sequence_length=LENGTH)
    arguments = dict(
        vocabulary_size=preprocessor.tokenizer.vocabulary_size(), dropout=0.5
    )
    distiller = keras_skd.Distiller(
        _gpt2(1, **arguments),
        _gpt2(2, **arguments),
        rollouts.OnPolicy("greedy"),
        preprocessor=preprocessor,
    )
    distiller.compile(optimizer=keras.optimizers.SGD(0.0))
    # With letters that the tokenizer has never seen.
    return distiller, {"prompts": ["Alice ☃ was", "café", "  a  good"]}


def test_ids_are_never_read_anew(on_policy):
    distiller, data = on_policy
    tokenizer = distiller.preprocessor.tokenizer
    rollout = distiller.generate_rollout(data)
    changed = []
    for row, prompt in enumerate(data["prompts"]):
        ids = rollout["token_ids"][row][rollout["sources"][row] == PROMPT]
        assert ids.tolist() == [
            tokenizer.start_token_id,
            *tokenizer(prompt),
        ]
        text = tokenizer.detokenize([ids[1:].tolist()])
        changed.append(list(tokenizer(text)[0]) != ids[1:].tolist())
    assert changed == [True, True, False]


def test_dropout_is_on_in_the_students_step_alone(on_policy):
    distiller, data = on_policy
    rollout = distiller.generate_rollout(data)
    student = _logits(distiller.student, rollout)
    greedy = np.argmax(student, axis=-1)[:, :-1]
    written = rollout["response_mask"]
    np.testing.assert_array_equal(
        rollout["token_ids"][written], greedy[written[:, 1:]]
    )
    loss = _forward_kl(_logits(distiller.teacher, rollout), student, written)
    # The steps write the same text, but train a student with dropout.
    history = distiller.fit(
        data, batch_size=3, epochs=2, validation_data=data, verbose=0
    ).history
    seen = history["loss"]
    assert seen[0] != pytest.approx(loss, rel=1e-3)
    assert seen[0] != seen[1]
    assert history["val_loss"] == pytest.approx([loss] * 2, rel=1e-4)
    for key in ("response_length", "val_response_length"):
        assert history[key] == pytest.approx([written.sum() / 3] * 2)


# Keras' ways of training.


def test_run_eagerly():
    distiller = keras_skd.Distiller(
        _llama(1), _llama(2), rollouts.Speculative(num_speculative_tokens=2)
    )
    distiller.compile(optimizer="adam", run_eagerly=True)
    before = _weights(distiller.student)
    history = distiller.fit(_prompts(), batch_size=4, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert history["response_length"] == [LENGTH - 2.5]
    assert (before[0] != _weights(distiller.student)[0]).any()


def test_gradient_accumulation():
    distiller = keras_skd.Distiller(_llama(1), _llama(2), rollout="supervised")
    distiller.compile(
        optimizer=keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    )
    weights = [_weights(distiller.student)[0]]

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            weights.append(_weights(distiller.student)[0])

    distiller.fit(
        _batch(), batch_size=4, epochs=4, callbacks=[Watch()], verbose=0
    )
    changed = [(a != b).any() for a, b in itertools.pairwise(weights)]
    assert changed == [False, True, False, True]


def test_mixed_precision():
    teacher = _llama(1, dtype="mixed_bfloat16")
    student = _llama(2, dtype="mixed_bfloat16")
    distiller = keras_skd.Distiller(teacher, student, seed=1)
    distiller.compile(optimizer=keras.optimizers.Adam(0.02))
    before = _weights(student)
    history = distiller.fit(
        _prompts(), batch_size=4, epochs=5, verbose=0
    ).history
    assert np.isfinite(history["loss"]).all()
    assert history["loss"][-1] < history["loss"][0]
    for old, new in zip(before, _weights(student)):
        assert new.dtype == "float32" and (old != new).any()


def test_lora():
    student = _llama(2)
    student.backbone.enable_lora(2)
    distiller = keras_skd.Distiller(_llama(1), student, rollout="supervised")
    distiller.compile(optimizer=keras.optimizers.Adam(0.02))
    before = _weights(student)
    distiller.fit(_batch(), batch_size=4, epochs=2, verbose=0)
    changed = [
        weight.path
        for weight, old in zip(student.weights, before)
        if (old != ops.convert_to_numpy(weight)).any()
    ]
    assert len(changed) == 4 and all("lora" in path for path in changed)


@pytest.mark.parametrize("rollout", ["on_policy", "teacher", "speculative"])
def test_a_last_batch_of_one_row(rollout):
    distiller = keras_skd.Distiller(
        _gpt2(1), _gpt2(2), rollout, stop_token_ids=()
    )
    distiller.compile(optimizer=keras.optimizers.SGD(0.1))
    prompts = _prompts(rows=3)
    history = distiller.fit(prompts, batch_size=2, verbose=0).history
    lengths = LENGTH - prompts["padding_mask"].sum(axis=1)
    assert history["response_length"] == pytest.approx([lengths.mean()])
    assert np.isfinite(history["loss"]).all()
