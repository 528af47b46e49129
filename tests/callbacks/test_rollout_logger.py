"""Rollouts after each epoch: terminal, JSONL, TensorBoard, notebook."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from ipykernel.inprocess import InProcessKernelManager

import keras_skd
from keras_skd.callbacks import RolloutLogger
from keras_skd.visualization import show_rollout
from tests.support.causal_lms import causal_lm
from tests.support.distillers import HELD_OUT
from tests.support.distillers import TRAINING
from tests.support.distillers import text_distiller


@pytest.fixture(scope="module")
def distiller():
    return text_distiller()


def fit(distiller, logger, epochs=1):
    distiller.fit(
        TRAINING, batch_size=3, epochs=epochs, callbacks=[logger], verbose=0
    )


def test_the_terminal_shows_who_wrote_what(distiller, capsys):
    logger = RolloutLogger(TRAINING, num_rows=2, every=2)
    fit(distiller, logger, epochs=2)
    printed = capsys.readouterr().out
    # No terminal here: signs in place of colours.
    assert printed.count("Rollouts after epoch") == 1
    assert "Rollouts after epoch 2:\n" in printed and "\x1b" not in printed
    view = show_rollout(logger.rollout, distiller)
    assert str(view) in printed
    assert logger.rollout["token_ids"].shape[0] == 2
    for row, text in enumerate(str(view).split("\n\n")):
        response = logger.rollout["response_mask"][row]
        tokenizer = distiller.preprocessor.tokenizer
        ids = logger.rollout["token_ids"][row][response]
        # With the signs left out, it is what was written.
        plain = text.split("> ", 1)[1].replace("[", "").replace("]", "")
        assert plain == tokenizer.detokenize(ids.tolist())
        assert ("[" in text) == (
            logger.rollout["sources"][row] == keras_skd.Source.TEACHER
        ).any()

    fit(distiller, RolloutLogger(TRAINING, color=True))
    colored = capsys.readouterr().out
    assert "\x1b[1;35m" in colored and "[/" not in colored

    fit(distiller, RolloutLogger(TRAINING, display=None))
    assert capsys.readouterr().out == ""


def test_lines_of_json(distiller, tmp_path, capsys):
    path = tmp_path / "rollouts.jsonl"
    logger = RolloutLogger(TRAINING, jsonl_path=path)
    fit(distiller, logger, epochs=2)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(x["epoch"], x["row"]) for x in lines] == [
        (epoch, row) for epoch in (0, 1) for row in (0, 1, 2)
    ]
    for line in lines[3:]:
        row = line["row"]
        sources = logger.rollout["sources"][row]
        kept = sources != keras_skd.Source.PADDING
        ids = logger.rollout["token_ids"][row][kept]
        assert line["token_ids"] == ids.tolist()
        assert line["sources"] == [
            keras_skd.Source(s).name.lower() for s in sources[kept]
        ]
        assert line["prompt"].endswith(TRAINING["prompts"][row])
        assert line["prompt"] + line["response"] == "".join(line["tokens"])


def test_tensorboard_shows_them_as_text(distiller, tmp_path, capsys):
    logger = RolloutLogger(TRAINING, num_rows=1, tensorboard_dir=tmp_path)
    fit(distiller, logger, epochs=2)
    (path,) = (tmp_path / "rollouts").iterdir()
    shown = {}
    for record in tf.data.TFRecordDataset(str(path)):
        event = tf.compat.v1.Event.FromString(record.numpy())
        for value in event.summary.value:
            assert value.metadata.plugin_data.plugin_name == "text"
            assert value.tag == "rollouts"
            text = tf.make_ndarray(value.tensor).item().decode()
            shown[event.step] = text
    assert [*shown] == [0, 1]
    lines = shown[1].split("\n")
    # Indented by four: Markdown leaves it as it is.
    assert all(line.startswith("    ") for line in lines)
    view = show_rollout(logger.rollout, distiller)
    assert "\n".join(line[4:] for line in lines) == str(view)


@pytest.fixture
def notebook():
    """The kernel of a notebook, in this process, and its client."""
    manager = InProcessKernelManager()
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    kernel = manager.kernel
    yield kernel.shell, client
    client.stop_channels()
    manager.shutdown_kernel()
    type(kernel.shell).clear_instance()
    type(kernel).clear_instance()


def test_a_notebook_shows_html(distiller, notebook):
    shell, client = notebook
    logger = RolloutLogger(TRAINING, num_rows=1)
    shell.push({"fit": fit, "distiller": distiller, "logger": logger})
    client.execute("fit(distiller, logger)")
    assert client.get_shell_msg()["content"]["status"] == "ok"
    shown = []
    while client.iopub_channel.msg_ready():
        message = client.get_iopub_msg()
        if message["msg_type"] == "display_data":
            shown.append(message["content"]["data"])
    (data,) = shown
    assert data["text/html"] == show_rollout(logger.rollout, distiller).html
    assert "for the teacher: rank 1, probability" in data["text/html"]


def test_training_goes_on_as_if_nobody_had_looked(capsys):
    def train(*callbacks):
        rollout = keras_skd.rollouts.OnPolicy("random")
        distiller = text_distiller(rollout, learning_rate=0.1)
        history = distiller.fit(
            TRAINING, epochs=2, callbacks=list(callbacks), verbose=0
        ).history
        return history, distiller.student.get_weights()

    history, weights = train()
    history_with, weights_with = train(RolloutLogger(TRAINING))
    assert history == history_with
    for without, with_logger in zip(weights, weights_with):
        np.testing.assert_array_equal(without, with_logger)


def test_responses_of_the_data_are_in_braces(capsys):
    distiller = text_distiller("supervised")
    distiller.fit(
        HELD_OUT, callbacks=[RolloutLogger(HELD_OUT, num_rows=1)], verbose=0
    )
    assert "Alice was\n> { very tired" in capsys.readouterr().out


def test_without_text_it_shows_ids(capsys):
    models = [causal_lm("gpt2", seed=seed) for seed in (1, 2)]
    distiller = keras_skd.Distiller(*models, rollout="supervised")
    distiller.compile()
    mask = np.array([[1, 1, 1, 0]])
    x = {
        "token_ids": 5 * mask,
        "padding_mask": mask,
        "response_mask": np.array([[0, 0, 1, 0]]),
    }
    distiller.fit(x, callbacks=[RolloutLogger(x)], verbose=0)
    assert "\n 5 5\n> { 5}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(x=["Alice"]), TypeError, "`x` must be a dict"),
        (dict(num_rows=0), ValueError, "`num_rows` must be at least 1"),
        (dict(every=1.5), TypeError, "`every` must be an int"),
        (dict(display="tv"), ValueError, "`display` must be one of.*'tv'"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        RolloutLogger(**{"x": TRAINING, **arguments})


def test_it_is_a_callback_of_a_distiller():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x = np.ones((1, 1))
    with pytest.raises(TypeError, match="Distiller.fit"):
        model.fit(x, x, callbacks=[RolloutLogger(TRAINING)], verbose=0)
