"""The errors of a distiller that is used wrongly."""

import numpy as np
import pytest

import keras_skd
from keras_skd import rollouts
from tests.support import bad_input


@pytest.fixture(scope="module")
def m():
    return bad_input.distillers()


@bad_input.cases(
    [
        (
            "seed of a string",
            lambda m: m.make(seed="1"),
            TypeError,
            ["`seed`", "'1'", "str"],
        ),
    ],
)
def test_arguments(m, call, error, words):
    bad_input.check(m, call, error, words)


@bad_input.cases(
    [
        (
            "targets",
            lambda m: m.fit(bad_input.PLAIN, y=np.zeros(2)),
            ValueError,
            ["`x`, and no `y`", "array([0., 0.])"],
        ),
        (
            "validation data with targets",
            lambda m: m.fit(
                bad_input.PLAIN, validation_data=(bad_input.PLAIN, np.zeros(2))
            ),
            TypeError,
            ["`validation_data`", "tuple"],
        ),
        (
            "sample weights",
            lambda m: m.fit(bad_input.PLAIN, sample_weight=np.ones(2)),
            ValueError,
            ["`sample_weight`", "array([1., 1.])"],
        ),
        (
            "class weights",
            lambda m: m.fit(bad_input.PLAIN, class_weight={0: 1.0}),
            ValueError,
            ["`class_weight`", "{0: 1.0}"],
        ),
        (
            "no responses for a rollout that needs them",
            lambda m: m.make(
                *m.with_text, rollout="supervised"
            ).generate_rollout(bad_input.PLAIN),
            ValueError,
            ["`rollout=Supervised`", '"responses"'],
        ),
        (
            "no compile",
            lambda m: m.make().fit(bad_input.IDS),
            ValueError,
            ["compile()"],
        ),
    ],
)
def test_arguments_of_fit(m, call, error, words):
    bad_input.check(m, call, error, words)


def test_nothing_is_half_done_after_an_error():
    class Echo(rollouts.Supervised):
        """A rollout that compiles quickly."""

    distiller = keras_skd.Distiller(
        bad_input.llama(), bad_input.llama(), rollout=Echo()
    )
    distiller.compile(optimizer="sgd")
    response_mask = np.array([[0, 1, 1, 1, 0, 0, 0, 0]] * 2)
    mask = np.array([[1, 1, 1, 1, 0, 0, 0, 0]] * 2)
    data = bad_input.ids(response_mask=response_mask, padding_mask=mask)
    loss, kl = distiller.evaluate(data, verbose=0)
    before = [np.array(w) for w in distiller.student.get_weights()]
    for call in (
        lambda: distiller.fit({"prompts": bad_input.PROMPTS}),
        lambda: distiller.fit(bad_input.IDS),
        lambda: distiller.fit(data, validation_data=bad_input.PROMPTS),
        lambda: distiller.evaluate(data, y=mask),
        lambda: distiller.generate_rollout(
            bad_input.ids(padding_mask=mask[:, ::-1])
        ),
        lambda: distiller.compile(loss="forward_k"),
    ):
        with pytest.raises((TypeError, ValueError)):
            call()
    for old, new in zip(before, distiller.student.get_weights()):
        np.testing.assert_array_equal(old, new)
    assert distiller.evaluate(data, verbose=0) == [loss, kl]
    history = distiller.fit(data, verbose=0).history
    assert history["loss"] == pytest.approx([loss], rel=1e-5)
