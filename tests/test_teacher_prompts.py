"""A teacher whose own prompts say more than the student's, or less."""

import keras
import numpy as np
import pytest

import keras_skd
from keras_skd import Source
from keras_skd import acceptance
from keras_skd import rollouts
from keras_skd._preprocessing import Packer
from tests.support import tokenizers
from tests.support import writing
from tests.support.causal_lms import VOCABULARY_SIZE

LENGTH = 14
TEACHER_LENGTH = 20
STOPS = (3,)
K = 8
# One row is nearly full, and one teacher knows less than its student.
LENGTHS = np.array([2, 9, 5, 13, 4, 6, 1, 3])
OFFSETS = np.array([4, 0, -2, 6, 1, 2, 5, 3])


@pytest.fixture(scope="module")
def models():
    return tuple(
        writing.random_causal_lm("llama", seed=seed, num_layers=layers)
        for seed, layers in ((1, 2), (2, 1))
    )


@pytest.fixture(scope="module")
def forward(models):
    return [writing.forward(model) for model in models]


def _with_teacher_prompts(batch, prompts):
    return {
        **batch,
        "teacher_token_ids": prompts["token_ids"],
        "teacher_padding_mask": prompts["padding_mask"],
    }


def _prompts():
    """Unrelated prompts for the student and the teacher."""
    return _with_teacher_prompts(
        writing.prompts(LENGTHS, LENGTH),
        writing.prompts(LENGTHS + OFFSETS, TEACHER_LENGTH, seed=1),
    )


def _seen_by_teacher(token_ids, batch):
    """The teacher's prompts, then the same responses."""
    seen = batch["teacher_token_ids"].copy()
    for row, (length, offset) in enumerate(zip(LENGTHS, OFFSETS)):
        response = token_ids[row, length:]
        seen[row, length + offset :][: len(response)] = response
    return seen


def _teacher_logits(teacher, token_ids, batch):
    """At the student's positions; meaningless before the response."""
    logits = teacher(_seen_by_teacher(token_ids, batch))
    index = np.arange(LENGTH) + OFFSETS[:, None]
    index = np.clip(index, 0, TEACHER_LENGTH - 1)
    return np.take_along_axis(logits, index[..., None], axis=1)


def _reference(forward, batch, k):
    """Greedy writing: student tokens within the teacher's top `k` stay."""
    teacher, student = forward
    token_ids = batch["token_ids"].copy()
    written = batch["padding_mask"].astype("int32")
    finished, margin = np.zeros(len(LENGTHS), "bool"), np.inf
    for column in range(1, LENGTH):
        of_student = student(token_ids)[:, column - 1]
        of_teacher = _teacher_logits(teacher, token_ids, batch)[:, column - 1]
        for row in np.flatnonzero((column >= LENGTHS) & ~finished):
            p, q = of_teacher[row], of_student[row]
            token, source = np.argmax(q), Source.STUDENT
            ranked = np.sort(p)[::-1]
            margin = min(margin, *np.diff(np.sort(q)[-2:]))
            if 0 < k < len(p):
                margin = min(margin, ranked[k - 1] - ranked[k])
            if (p > p[token]).sum() >= k:
                token, source = np.argmax(p), Source.TEACHER
                margin = min(margin, ranked[0] - ranked[1])
            token_ids[row, column], written[row, column] = token, source
            finished[row] = token in STOPS
    assert margin > 1e-4
    return token_ids * (written > 0), written


def _loss(forward, token_ids, response_mask, batch):
    """Eq. 1 of the SKD paper, with what the teacher sees."""
    teacher, student = forward
    p, q = (
        _log_softmax(logits)
        for logits in (
            _teacher_logits(teacher, token_ids, batch),
            student(token_ids),
        )
    )
    values = (np.exp(p) * (p - q)).sum(-1)[:, :-1]
    mask = response_mask[:, 1:]
    rows = np.where(mask, values, 0).sum(1) / np.maximum(mask.sum(1), 1)
    return rows.mean()


def _log_softmax(logits):
    logits = logits.astype("float64")
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def _speculative():
    return rollouts.Speculative(
        acceptance=acceptance.TopK(K),
        num_speculative_tokens=3,
        student_sampler="greedy",
        teacher_sampler="greedy",
    )


def _distiller(models, rollout):
    return keras_skd.Distiller(*models, rollout, stop_token_ids=STOPS)


def test_speculation(models, forward):
    batch = _prompts()
    distiller = _distiller(models, _speculative())
    distiller.compile(optimizer=keras.optimizers.SGD(0.0))
    written = distiller.generate_rollout(batch)
    token_ids, expected = _reference(forward, batch, K)
    assert {Source.STUDENT, Source.TEACHER} <= set(expected.ravel())
    assert 0 < (expected[:, -1] == 0).sum() < len(LENGTHS)
    np.testing.assert_array_equal(written["sources"], expected)
    np.testing.assert_array_equal(written["token_ids"], token_ids)
    # In training, the teacher's passes are those of verification; on data, it
    # has one pass.
    loss = _loss(forward, token_ids, expected > 1, batch)
    history = distiller.fit(batch, batch_size=len(LENGTHS), verbose=0)
    assert history.history["loss"] == pytest.approx([loss], rel=1e-4)
    data = {
        **batch,
        "token_ids": token_ids,
        "padding_mask": expected > 0,
        "response_mask": expected > 1,
    }
    evaluated = distiller.evaluate(data, batch_size=len(LENGTHS), verbose=0)
    assert evaluated[0] == pytest.approx(loss, rel=1e-4)


def test_every_rollout(models, forward):
    """All of them in one mixture, so that each writes some of the rows."""
    batch = _prompts()
    rng = np.random.default_rng(5)
    is_prompt = batch["padding_mask"].astype("bool")
    data = rng.integers(4, VOCABULARY_SIZE, is_prompt.shape).astype("int32")
    data = np.where(is_prompt, batch["token_ids"], data)
    everywhere = np.where(is_prompt, Source.PROMPT, Source.DATA)
    expected = [
        (data, everywhere),
        *(_reference(forward, batch, k) for k in (VOCABULARY_SIZE, 0, K)),
    ]
    batch = {
        **batch,
        "token_ids": data,
        "padding_mask": np.ones_like(data),
        "response_mask": 1 - batch["padding_mask"],
    }

    mixture = rollouts.Mixture(
        {
            "supervised": 1,
            rollouts.OnPolicy("greedy"): 1,
            rollouts.Teacher("greedy"): 1,
            _speculative(): 1,
        },
        seed=6,
    )
    distiller = _distiller(models, mixture)
    count = sum(
        writing.count_authors(distiller.generate_rollout(batch), expected)
        for _ in range(4)
    )
    assert count.min() > 2


def test_equal_prompts_change_nothing(models):
    batch = writing.prompts(LENGTHS, LENGTH)
    equal = _with_teacher_prompts(batch, batch)
    distiller = _distiller(models, _speculative())
    distiller.compile(optimizer=keras.optimizers.SGD(0.0))
    plain, privileged = (distiller.generate_rollout(x) for x in (batch, equal))
    for key, value in plain.items():
        np.testing.assert_array_equal(privileged[key], value)
    assert {Source.STUDENT, Source.TEACHER} <= set(plain["sources"].ravel())
    data = {k: plain[k] for k in (*batch, "response_mask")}
    losses = [
        distiller.evaluate(x, batch_size=len(LENGTHS), verbose=0)[0]
        for x in (data, _with_teacher_prompts(data, batch))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    # Different prompts change the loss.
    other = _with_teacher_prompts(
        data, writing.prompts(LENGTHS, LENGTH, seed=1)
    )
    other, _ = distiller.evaluate(other, batch_size=len(LENGTHS), verbose=0)
    assert abs(other - losses[0]) > 0.01 * losses[0]


def test_hidden_states_of_the_same_response(models):
    """Deep context distillation: the layers match at the same tokens, too."""
    teacher, student = models
    batch = _prompts()
    data = {
        **batch,
        "padding_mask": np.arange(LENGTH) < LENGTHS[:, None] + 1,
        "response_mask": np.arange(LENGTH) == LENGTHS[:, None],
    }
    data["token_ids"] = np.where(data["response_mask"], 9, batch["token_ids"])
    distiller = _distiller(models, "supervised")
    layers = {"transformer_layer_1": "transformer_layer_0"}
    losses = []
    for loss in (None, keras_skd.losses.HiddenStateL1(layers)):
        distiller.compile(hidden_state_loss=loss)
        losses.append(
            distiller.evaluate(data, batch_size=len(LENGTHS), verbose=0)[0]
        )

    def states(model, name, token_ids):
        backbone = model.backbone
        read = keras.Model(backbone.input, backbone.get_layer(name).output)
        inputs = {
            "token_ids": token_ids,
            "padding_mask": np.ones_like(token_ids),
        }
        return keras.ops.convert_to_numpy(read(inputs))

    (theirs, ours), *_ = layers.items()
    rows = np.arange(len(LENGTHS))
    # The last token of both prompts predicts the only response token.
    t = states(teacher, theirs, batch["teacher_token_ids"])
    t = t[rows, LENGTHS + OFFSETS - 1]
    s = states(student, ours, batch["token_ids"])[rows, LENGTHS - 1]
    expected = np.mean(np.abs(t - s).sum(-1) / np.abs(t).sum(-1))
    assert losses[1] - losses[0] == pytest.approx(expected, rel=1e-3)


def test_lockstep_is_refused(models):
    rollout = rollouts.Speculative(decoding="lockstep")
    with pytest.raises(ValueError, match="teacher_prompts.*decoding='ragged'"):
        _distiller(models, rollout).generate_rollout(_prompts())


# Strings.


@pytest.mark.parametrize("add_start_token", [True, False])
def test_packing(add_start_token):
    preprocessor = tokenizers.llama3(
        sequence_length=8, add_start_token=add_start_token
    )
    tokenizer = preprocessor.tokenizer
    prompts = ["Alice was", "said the"]
    teacher_prompts = ["That depends a good deal. Alice was", "the"]
    pack = Packer(preprocessor, 8)
    packed = pack(
        {
            "prompts": prompts,
            "responses": [" very tired", " Cat"],
            "teacher_prompts": teacher_prompts,
        }
    )
    start = [tokenizer.start_token_id] * add_start_token
    assert packed["teacher_token_ids"].shape == (2, 16)
    for row, text in enumerate(teacher_prompts):
        ids = [*start, *np.array(tokenizer(text)).tolist()]
        mask = packed["teacher_padding_mask"][row]
        assert packed["teacher_token_ids"][row].tolist() == ids + [0] * (
            16 - len(ids)
        )
        assert mask.tolist() == [i < len(ids) for i in range(16)]
    # The student's part is the same as without them.
    plain = pack({"prompts": prompts, "responses": [" very tired", " Cat"]})
    assert set(packed) - set(plain) == {
        "teacher_token_ids",
        "teacher_padding_mask",
    }
    for key, value in plain.items():
        np.testing.assert_array_equal(packed[key], value)


def test_room_for_the_response():
    """The length in the message is enough, and one token less is not."""
    preprocessor = tokenizers.gpt2(sequence_length=8)
    data = {
        "prompts": ["Alice was", "said"],
        "teacher_prompts": ["Alice", "That depends a good deal on where"],
    }
    lengths = [
        len(np.array(preprocessor.tokenizer(text)))
        for text in (data["prompts"][1], data["teacher_prompts"][1])
    ]
    needed = lengths[1] + 8 - lengths[0]
    packed = Packer(preprocessor, 8, teacher_sequence_length=needed)(data)
    assert packed["teacher_token_ids"].shape == (2, needed)
    with pytest.raises(
        ValueError, match=f"in row 1.*`teacher_sequence_length={needed}`"
    ):
        Packer(preprocessor, 8, teacher_sequence_length=needed - 1)(data)
