"""Uses the installed library as a user would, in a new environment.

`make test-wheel` runs it with `python -I`, so that nothing comes from the
checkout, once with the extra of a backend, and again with `chat` and `plot`.
The argument is the list of extras, separated by commas.
"""

import importlib.metadata
import importlib.util
import pathlib
import string
import sys

import keras
import keras_hub
import numpy as np

import keras_skd

PACKAGES = {"chat": "jinja2", "plot": "matplotlib"}
QUESTION = "What is the time?"
TEMPLATE = (
    "{% for message in messages %}"
    "{{ message.role }}: {{ message.content }}\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
MESSAGES = [
    {"role": "user", "content": QUESTION},
    {"role": "assistant", "content": "Ten."},
]


def check_installation(extras):
    """The library is the wheel's, and only the asked extras are installed."""
    folder = pathlib.Path(keras_skd.__file__).parent
    assert folder.is_relative_to(sys.prefix), folder
    assert (folder / "py.typed").exists()
    version = importlib.metadata.version("keras-skd")
    assert version == keras_skd.__version__, (version, keras_skd.__version__)
    assert keras.config.backend() in extras
    expected = {name for name in PACKAGES if name in extras}
    if "torch" in extras:
        # PyTorch depends on Jinja.
        expected.add("chat")
    found = {name for name in PACKAGES if is_installed(PACKAGES[name])}
    assert found == expected, (found, expected)
    # KerasHub itself depends on TensorFlow, except on Windows.
    for backend in {"jax", "torch"} - {*extras}:
        assert not is_installed(backend), backend
    return found


def is_installed(package):
    return importlib.util.find_spec(package) is not None


def causal_lm():
    """A tiny random GPT-2 that reads characters."""
    characters = [*string.ascii_letters, *string.punctuation, "Ġ", "Ċ"]
    # A merge is required, so that "th" is one token, too.
    vocabulary = ["<|endoftext|>", *characters, "th"]
    tokenizer = keras_hub.tokenizers.GPT2Tokenizer(
        {token: i for i, token in enumerate(vocabulary)}, merges=["t h"]
    )
    return keras_hub.models.GPT2CausalLM(
        backbone=keras_hub.models.GPT2Backbone(
            vocabulary_size=len(vocabulary),
            num_layers=1,
            num_heads=2,
            hidden_dim=8,
            intermediate_dim=8,
            max_sequence_length=128,
        ),
        preprocessor=keras_hub.models.GPT2CausalLMPreprocessor(
            tokenizer, sequence_length=128
        ),
    )


def train_one_step(data, **kwargs):
    """Trains a student for one step, and returns the history."""
    keras.utils.set_random_seed(0)
    teacher, student = causal_lm(), causal_lm()
    before = [np.array(weight) for weight in student.get_weights()]
    distiller = keras_skd.Distiller(
        teacher, student, sequence_length=128, seed=0, **kwargs
    )
    distiller.compile(optimizer="adam", loss="forward_kl")
    history = distiller.fit(data, batch_size=2, epochs=1, verbose=0)
    (loss,) = history.history["loss"]
    assert np.isfinite(loss) and loss > 0, loss
    after = student.get_weights()
    assert any((a != b).any() for a, b in zip(before, after))
    return history


def raises_import_error(function, extra):
    """Whether the error names the extra that is not installed."""
    try:
        function()
    except ImportError as error:
        return f"keras-skd[{extra}]" in str(error)
    return False


def main(extras):
    installed = check_installation(extras)
    history = train_one_step({"prompts": [QUESTION, "Who are you?"]})

    def template():
        return keras_skd.chat.ChatTemplate(TEMPLATE)

    def plot():
        return keras_skd.visualization.plot_history(history)

    if "chat" in installed:
        assert QUESTION in template().render(MESSAGES)
        train_one_step({"messages": [MESSAGES] * 2}, chat_template=template())
    else:
        assert raises_import_error(template, "chat")
    if "plot" in installed:
        assert plot()._repr_png_().startswith(b"\x89PNG")
    else:
        assert raises_import_error(plot, "plot")
    print(
        f"keras-skd[{','.join(extras)}] {keras_skd.__version__}: one step, "
        f"loss {history.history['loss'][0]:.3f}"
    )


if __name__ == "__main__":
    main(sys.argv[1].split(","))
