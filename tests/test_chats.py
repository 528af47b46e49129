"""Chats in training: what is written, scored and generated."""

import keras
import keras_hub
import numpy as np
import pytest

import keras_skd
from keras_skd import Source
from tests.support import bad_input
from tests.support import tokenizers

LENGTH = 48
QUESTION = {"role": "user", "content": "Would you tell me, please?"}
ANSWER = {"role": "assistant", "content": "That depends."}
MORE = {"role": "user", "content": "Alice was very tired"}
LAST = {"role": "assistant", "content": "There was nothing"}
CHATS = {
    "messages": [
        [QUESTION, ANSWER],
        [QUESTION, ANSWER, MORE, LAST],
        [MORE, ANSWER, QUESTION, LAST, QUESTION, ANSWER],
    ]
}
QUESTIONS = {"messages": [chat[:-1] for chat in CHATS["messages"]]}


@pytest.fixture(scope="module")
def preprocessor():
    """A tokenizer that does not know that a turn ends at <|end|>."""
    special = ["<|endoftext|>", "<|end|>", "<|user|>", "<|assistant|>"]
    tokenizer = keras_hub.tokenizers.GPT2Tokenizer(
        *tokenizers.byte_pairs(special, tokenizers.SENTENCES)
    )
    return keras_hub.models.GPT2CausalLMPreprocessor(
        tokenizer, sequence_length=LENGTH
    )


@pytest.fixture(scope="module")
def models(preprocessor):
    size = preprocessor.tokenizer.vocabulary_size()
    return [
        bad_input.gpt2(
            size, length=2 * LENGTH, seed=seed, preprocessor=preprocessor
        )
        for seed in (1, 2)
    ]


def _distiller(models, rollout="supervised", **kwargs):
    kwargs = {"chat_template": "phi", **kwargs}
    distiller = keras_skd.Distiller(*models, rollout, seed=0, **kwargs)
    distiller.compile(optimizer=keras.optimizers.SGD(0.1))
    return distiller


def _text(preprocessor, ids):
    return preprocessor.tokenizer.detokenize(np.asarray(ids).tolist())


def _log_probs(model, token_ids, padding_mask):
    logits = model({"token_ids": token_ids, "padding_mask": padding_mask})
    logits = keras.ops.convert_to_numpy(logits).astype("float64")
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def _forward_kl(models, rollout):
    """Eq. 1 of the SKD paper, from the masks of a rollout."""
    p, q = (
        _log_probs(model, rollout["token_ids"], rollout["padding_mask"])
        for model in models
    )
    values = (np.exp(p) * (p - q)).sum(-1)[:, :-1]
    mask = rollout["response_mask"][:, 1:]
    return (np.where(mask, values, 0).sum(1) / mask.sum(1)).mean()


def test_a_turn_ends_a_response(models, preprocessor):
    tokenizer = preprocessor.tokenizer
    ends = tokenizer.end_token_id, tokenizer.token_to_id("<|end|>")
    assert _distiller(models).stop_token_ids == ends
    plain = _distiller(models, chat_template=None)
    assert plain.stop_token_ids == ends[:1]
    assert _distiller(models, stop_token_ids=(3,)).stop_token_ids == (3,)


@pytest.mark.parametrize("turns", ["last", "all"])
def test_what_is_trained(models, preprocessor, turns):
    distiller = _distiller(models, assistant_turns=turns)
    rollout = distiller.generate_rollout(CHATS)
    for i, chat in enumerate(CHATS["messages"]):
        answers = [m["content"] for m in chat if m["role"] == "assistant"]
        answers = answers[-1:] if turns == "last" else answers
        mask = rollout["response_mask"][i]
        text = _text(preprocessor, rollout["token_ids"][i][mask])
        assert text == "".join(f"{answer}<|end|>" for answer in answers)
        by_data = rollout["sources"][i] == Source.DATA
        np.testing.assert_array_equal(by_data, mask)
        whole = rollout["token_ids"][i][rollout["padding_mask"][i]]
        assert _text(preprocessor, whole) == "".join(
            f"<|{m['role']}|>{m['content']}<|end|>" for m in chat
        )
    expected = _forward_kl(models, rollout)
    loss = distiller.evaluate(CHATS, verbose=0)[0]
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_fit_on_all_turns_in_one_pass(preprocessor):
    size = preprocessor.tokenizer.vocabulary_size()
    models = [
        bad_input.gpt2(size, LENGTH, seed=seed, preprocessor=preprocessor)
        for seed in (1, 2)
    ]
    distiller = _distiller(models, assistant_turns="all")
    before = distiller.evaluate(CHATS, verbose=0)[0]
    history = distiller.fit(
        CHATS, batch_size=3, epochs=3, validation_data=CHATS, verbose=0
    ).history
    assert history["val_loss"][-1] < before
    rollout = distiller.generate_rollout(CHATS)
    length = rollout["response_mask"].sum(1).mean()
    assert history["response_length"] == pytest.approx([length] * 3)


def test_rollouts_write_the_last_turn(models, preprocessor):
    distiller = _distiller(models, "on_policy")
    rollout = distiller.generate_rollout(CHATS)
    asked = distiller.generate_rollout(QUESTIONS)
    given = _distiller(models).generate_rollout(CHATS)
    for i in range(3):
        mask = rollout["response_mask"][i]
        assert set(rollout["sources"][i][mask]) == {Source.STUDENT}
        # The prompt has the earlier turns, and the beginning of this one.
        start = int(np.argmax(mask))
        assert start == np.argmax(given["response_mask"][i])
        assert start == np.argmax(asked["response_mask"][i])
        np.testing.assert_array_equal(
            rollout["token_ids"][i, :start], given["token_ids"][i, :start]
        )
        end = preprocessor.tokenizer.token_to_id("<|end|>")
        assert (rollout["token_ids"][i][mask][:-1] != end).all()


def test_generate_answers_chats(models, preprocessor):
    distiller = _distiller(models)
    texts = distiller.generate(QUESTIONS, max_length=40)
    assert len(texts) == 3
    # As KerasHub, it leaves out the special tokens that it knows.
    for text, chat in zip(texts, QUESTIONS["messages"]):
        assert text.startswith("<|user|>" + chat[0]["content"])
    with pytest.raises(ValueError, match="the responses itself"):
        distiller.generate(CHATS)


def test_a_teacher_with_a_template_of_its_own(models):
    theirs = (
        "{{ eos_token }}{% for m in messages %}{{ m.content }}, said the "
        "{{ m.role }}. {% endfor %}"
    )
    distiller = _distiller(models, teacher_chat_template=theirs)
    loss = distiller.evaluate(CHATS, verbose=0)[0]
    # GPT-2 has one token for the start and for the end.
    prompts = [
        "".join(f"{m['content']}, said the {m['role']}. " for m in chat)
        for chat in QUESTIONS["messages"]
    ]
    explicit = {**CHATS, "teacher_prompts": prompts}
    expected = _distiller(models).evaluate(explicit, verbose=0)[0]
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    other = _distiller(models).evaluate(CHATS, verbose=0)[0]
    assert abs(loss - other) > 1e-4 * loss


def test_gaps_of_token_ids(models):
    token_ids = np.array([[5, 6, 3, 7, 8, 3, 9, 0], [5, 6, 3, 7, 8, 9, 9, 0]])
    mask = np.array([[0, 1, 1, 0, 1, 1, 1, 0], [0, 1, 1, 0, 0, 1, 1, 0]])
    batch = {
        "token_ids": token_ids,
        "padding_mask": token_ids > 0,
        "response_mask": mask,
    }
    ids_alone = [bad_input.gpt2(), bad_input.gpt2(seed=1)]
    kwargs = dict(chat_template=None, stop_token_ids=(3,))
    distiller = _distiller(ids_alone, assistant_turns="all", **kwargs)
    written = distiller.generate_rollout(batch)
    # A stop token ends the last response, and not the row before it.
    mask[0, 6] = 0
    np.testing.assert_array_equal(written["response_mask"], mask)
    assert written["token_ids"][0].tolist() == [5, 6, 3, 7, 8, 3, 0, 0]
    with pytest.raises(ValueError, match='"response_mask".*assistant_turns'):
        _distiller(ids_alone, **kwargs).generate_rollout(batch)
    theirs = {"teacher_token_ids": token_ids, "teacher_padding_mask": mask > -1}
    with pytest.raises(ValueError, match='assistant_turns="all"'):
        distiller.generate_rollout({**batch, **theirs})


@pytest.mark.parametrize(
    "rollout", ["speculative", {"supervised": 0.5, "on_policy": 0.5}]
)
def test_all_turns_are_for_supervised_rollouts(models, rollout):
    if isinstance(rollout, dict):
        rollout = keras_skd.rollouts.Mixture(rollout)
    with pytest.raises(ValueError, match="assistant_turns.*supervised") as info:
        _distiller(models, rollout, assistant_turns="all")
    assert "Received: rollout=" in str(info.value)
