"""`compile(rollout_metrics=...)`, counted again in plain Python."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_skd
from keras_skd import losses
from keras_skd import rollouts
from tests.support.distillers import HELD_OUT
from tests.support.distillers import LENGTH
from tests.support.distillers import TRAINING
from tests.support.distillers import K
from tests.support.distillers import models
from tests.support.distillers import speculative

STUDENT, TEACHER, DATA = 2, 3, 4
# Two batches of two.
PROMPTS = {"prompts": [*TRAINING["prompts"], "said"]}
NUM_DRAFTS = 3
ALL = [
    "acceptance_by_draft_position",
    "acceptance_by_response_position",
    "tokens_per_teacher_pass",
    "rejected_rank",
    "kl_by_source",
    "loss_parts",
]
DEFAULT = {
    "loss",
    "acceptance_rate",
    "teacher_token_fraction",
    "response_length",
}


def distiller_of(rollout=None, rollout_metrics=ALL, **kwargs):
    distiller = keras_skd.Distiller(*models(), rollout or speculative(), seed=0)
    distiller.compile(
        optimizer=keras.optimizers.SGD(0.0),
        rollout_metrics=rollout_metrics,
        **kwargs,
    )
    return distiller


def log_probs(model, rollout):
    inputs = {k: rollout[k] for k in ("token_ids", "padding_mask")}
    x = ops.convert_to_numpy(model(inputs)).astype("float64")
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def turns(sources, num_drafts):
    """The turns of each row: lists of columns, from its text alone.

    A turn ends with a token by the teacher, or after all of its drafts.
    """
    for row in sources:
        turn = []
        for column in np.flatnonzero(row > 1):
            turn.append(column)
            if row[column] == TEACHER or len(turn) == num_drafts:
                yield row, turn
                turn = []
        if turn:
            yield row, turn


def expected_of_rollout(distiller, rollout, num_drafts, length=LENGTH):
    sources = rollout["sources"]
    by_draft = np.zeros((num_drafts, 2))
    by_token = np.zeros((length, 2))
    num_turns = 0
    for row, turn in turns(sources, num_drafts):
        num_turns += 1
        first = np.flatnonzero(row > 1)[0]
        for i, column in enumerate(turn):
            verdict = (row[column] == STUDENT, 1)
            by_draft[i] += verdict
            by_token[column - first] += verdict
    student, teacher = (
        log_probs(m, rollout) for m in (distiller.student, distiller.teacher)
    )
    ranks = []
    for row, column in np.argwhere(sources == TEACHER):
        draft = np.argmax(student[row, column - 1])
        logits = teacher[row, column - 1]
        ranks.append(1 + (logits > logits[draft]).sum())
    assert min(ranks) > K

    def rate(counts):
        accepted, tested = counts.sum(0)
        return accepted / tested if tested else np.nan

    return {
        "acceptance_rate_draft_1": rate(by_draft[:1]),
        "acceptance_rate_draft_2": rate(by_draft[1:2]),
        "acceptance_rate_draft_3_up": rate(by_draft[2:]),
        "acceptance_rate_token_1_8": rate(by_token[:8]),
        "acceptance_rate_token_9_up": rate(by_token[8:]),
        "tokens_per_teacher_pass": (sources > 1).sum() / num_turns,
        "rejected_rank": np.exp(np.mean(np.log(ranks))),
    }


def kl_by_source(distiller, rollout):
    student, teacher = (
        log_probs(m, rollout) for m in (distiller.student, distiller.teacher)
    )
    kl = (np.exp(teacher) * (teacher - student)).sum(-1)[:, :-1]
    authors = {"student": STUDENT, "teacher": TEACHER, "data": DATA}
    masks = {k: rollout["sources"][:, 1:] == v for k, v in authors.items()}
    return kl, {
        f"kl_{name}": kl[mask].mean() if mask.any() else np.nan
        for name, mask in masks.items()
    }


def check(history, expected):
    for name, value in expected.items():
        assert history[name] == pytest.approx(
            [value] * len(history[name]), rel=1e-4, nan_ok=True
        ), name


@pytest.fixture(scope="module")
def distiller():
    loss = losses.WeightedSum(
        ["forward_kl", "cross_entropy", losses.ForwardKL(temperature=2.0)],
        [0.7, 0.3, 0.1],
    )
    return distiller_of(loss=loss)


def test_all_of_a_speculative_rollout(distiller):
    # Two batches, so that means are over both; greedy, so that what is written
    # beforehand is what the steps write.
    rollout = distiller.generate_rollout(PROMPTS)
    expected = expected_of_rollout(distiller, rollout, NUM_DRAFTS)
    rates = [v for k, v in expected.items() if k.startswith("acceptance")]
    assert len({*rates}) == 5 and min(rates) > 0
    assert expected["tokens_per_teacher_pass"] > 1
    history = distiller.fit(
        PROMPTS, batch_size=2, epochs=2, shuffle=False, verbose=0
    ).history
    check(history, expected)
    check(history, kl_by_source(distiller, rollout)[1])
    assert np.isnan(history["kl_data"]).all()
    assert {*history} == {
        *DEFAULT,
        *expected,
        "kl_student",
        "kl_teacher",
        "kl_data",
        "forward_kl_loss",
        "cross_entropy_loss",
        "forward_kl_2_loss",
    }


def test_parts_add_up_to_the_loss(distiller):
    rollout = distiller.generate_rollout(PROMPTS)
    history = distiller.fit(PROMPTS, batch_size=2, verbose=0).history
    kl, _ = kl_by_source(distiller, rollout)
    student = log_probs(distiller.student, rollout)[:, :-1]
    mask = rollout["response_mask"][:, 1:]
    nll = -np.take_along_axis(
        student, rollout["token_ids"][:, 1:, None], axis=-1
    )[..., 0]

    def mean(values):
        return np.mean([v[m].mean() for v, m in zip(values, mask)])

    check(
        history,
        {
            "forward_kl_loss": 0.7 * mean(kl),
            "cross_entropy_loss": 0.3 * mean(nll),
        },
    )
    parts = ["forward_kl_loss", "cross_entropy_loss", "forward_kl_2_loss"]
    total = sum(history[name][0] for name in parts)
    assert total == pytest.approx(history["loss"][0], rel=1e-5)


def test_given_responses_have_no_rollout(distiller):
    logs = distiller.evaluate(
        HELD_OUT, batch_size=4, return_dict=True, verbose=0
    )
    assert {*logs} == {
        "kl",
        "loss",
        "kl_student",
        "kl_teacher",
        "kl_data",
        "forward_kl_loss",
        "cross_entropy_loss",
        "forward_kl_2_loss",
    }
    packed = distiller._pack(HELD_OUT)
    rollout = {**packed, "sources": np.where(packed["response_mask"], DATA, 1)}
    _, expected = kl_by_source(distiller, rollout)
    check({k: [v] for k, v in logs.items()}, expected)
    assert np.isnan([logs["kl_student"], logs["kl_teacher"]]).all()


def test_by_source_and_hidden_states():
    teacher, student = models()
    distiller = keras_skd.Distiller(teacher, student, speculative(), seed=0)
    distiller.compile(
        optimizer=keras.optimizers.SGD(0.0),
        loss=losses.BySource(
            student="forward_kl",
            teacher="cross_entropy",
            source_weights={"teacher": 0.5},
        ),
        hidden_state_loss=losses.HiddenStateL1(weight=0.1),
        rollout_metrics="loss_parts",
    )
    history = distiller.fit(TRAINING, batch_size=3, verbose=0).history
    parts = ["student_loss", "teacher_loss", "data_loss", "hidden_state_loss"]
    assert {*history} == {*DEFAULT, *parts}
    assert history["data_loss"] == [0.0]
    rollout = distiller.generate_rollout(TRAINING)
    kl, _ = kl_by_source(distiller, rollout)
    mask = rollout["response_mask"][:, 1:]
    by_student = rollout["sources"][:, 1:] == STUDENT
    rows = [
        np.where(by_student, kl, 0.0)[row][mask[row]].mean() for row in range(3)
    ]
    check(history, {"student_loss": np.mean(rows)})
    total = sum(history[name][0] for name in parts)
    assert total == pytest.approx(history["loss"][0], rel=1e-5)
    assert history["hidden_state_loss"][0] > 0


def test_a_loss_without_a_teacher_has_a_kl_all_the_same():
    distiller = distiller_of(
        "supervised", ["kl_by_source", "loss_parts"], loss="cross_entropy"
    )
    history = distiller.fit(HELD_OUT, batch_size=4, verbose=0).history
    packed = distiller._pack(HELD_OUT)
    rollout = {**packed, "sources": np.where(packed["response_mask"], DATA, 1)}
    check(history, kl_by_source(distiller, rollout)[1])
    assert history["cross_entropy_loss"] == pytest.approx(history["loss"])


def test_they_do_not_change_the_training():
    def train(rollout_metrics):
        distiller = keras_skd.Distiller(*models(), speculative(), seed=0)
        distiller.compile(
            optimizer=keras.optimizers.SGD(0.1), rollout_metrics=rollout_metrics
        )
        history = distiller.fit(TRAINING, epochs=3, verbose=0).history
        return history, distiller.student.get_weights()

    history, weights = train(None)
    assert {*history} == DEFAULT
    history_with, weights_with = train(ALL)
    for name in DEFAULT:
        assert history[name] == pytest.approx(history_with[name], rel=1e-5)
    for without, with_metrics in zip(weights, weights_with):
        np.testing.assert_allclose(without, with_metrics, atol=1e-5)


def test_they_are_gone_after_another_compile():
    distiller = distiller_of(rollout_metrics=["rejected_rank"])
    batch = {
        k: ops.convert_to_tensor(v)
        for k, v in distiller._pack(TRAINING).items()
    }
    assert "rejected_ranks" in distiller.rollout_function(batch)
    distiller.compile(optimizer="sgd")
    written = distiller.rollout_function(batch)
    assert not {"rejected_ranks", "draft_positions"} & {*written}
    history = distiller.fit(TRAINING, verbose=0).history
    assert {*history} == DEFAULT


def test_lockstep_drafts_one_token_a_turn():
    distiller = distiller_of(speculative(decoding="lockstep"), ALL[:4])
    rollout = distiller.generate_rollout(TRAINING)
    expected = expected_of_rollout(distiller, rollout, 3)
    history = distiller.fit(TRAINING, batch_size=3, verbose=0).history
    by_student = (rollout["sources"] == STUDENT).sum()
    written = (rollout["sources"] > 1).sum()
    check(
        history,
        {
            "acceptance_rate_draft_1": by_student / written,
            "acceptance_rate_draft_2": np.nan,
            "acceptance_rate_token_1_8": expected["acceptance_rate_token_1_8"],
            "tokens_per_teacher_pass": 1.0,
            "rejected_rank": expected["rejected_rank"],
        },
    )


def test_in_a_mixture_the_rows_that_draft_count():
    mixture = rollouts.Mixture({speculative(): 0.5, "on_policy": 0.5}, seed=1)
    distiller = distiller_of(mixture, ALL[:4])
    alone = distiller_of(speculative(), None)
    rows = {"prompts": TRAINING["prompts"] * 4}
    history = distiller.fit(rows, batch_size=12, verbose=0).history
    rollout = alone.generate_rollout(rows)
    by_rank = expected_of_rollout(alone, rollout, NUM_DRAFTS)["rejected_rank"]
    # Which rows draft is drawn; what one that does writes is not.
    assert history["tokens_per_teacher_pass"][0] > 1
    assert by_rank / 2 < history["rejected_rank"][0] < 2 * by_rank
    assert 0 < history["acceptance_rate_draft_1"][0] < 1


@pytest.mark.parametrize(
    ("groups", "error", "message"),
    [
        (["rank"], ValueError, "some of.*'loss_parts'.*Received: 'rank'"),
        ({"loss_parts": 1}, TypeError, "`rollout_metrics` must be a list"),
        (["rejected_rank"], ValueError, "rollouts that draft.*OnPolicy"),
    ],
)
def test_bad_input(groups, error, message):
    with pytest.raises(error, match=message):
        distiller_of("on_policy", groups)
