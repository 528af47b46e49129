"""The example in each public docstring runs, on tiny models."""

import functools
import inspect
import re
import string

import keras
import keras_hub
import pytest

import keras_skd
from tests.support import tokenizers
from tests.support.causal_lms import causal_lm

PACKAGES = (
    keras_skd,
    keras_skd.acceptance,
    keras_skd.callbacks,
    keras_skd.chat,
    keras_skd.decoding,
    keras_skd.losses,
    keras_skd.rollouts,
    keras_skd.schedules,
    keras_skd.visualization,
)
_BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


def docstrings():
    """The name and docstring of everything public, methods included."""
    for package in PACKAGES:
        for name, value in vars(package).items():
            if name.startswith("_") or not callable(value):
                continue
            yield f"{package.__name__}.{name}", inspect.getdoc(value)
            for member, method in vars(value).items():
                if not member.startswith("_") and inspect.isfunction(method):
                    # Its own docstring, not an inherited one.
                    doc = inspect.cleandoc(method.__doc__ or "")
                    yield f"{package.__name__}.{name}.{member}", doc


EXAMPLES = {
    name: [match["code"] for match in _BLOCK.finditer(doc or "")]
    for name, doc in docstrings()
}
PROMPTS = {
    name: re.findall(r"^>>> (.*)\n(.*)$", doc or "", re.MULTILINE)
    for name, doc in docstrings()
}


@functools.cache
def _preprocessor():
    letters = " ".join(string.ascii_letters + string.digits + "+=?")
    return tokenizers.gemma([*tokenizers.SENTENCES, letters], turns=True)


def _model(seed):
    preprocessor = _preprocessor()
    return causal_lm(
        "gemma",
        seed=seed,
        vocabulary_size=preprocessor.tokenizer.vocabulary_size(),
        num_layers=1,
        preprocessor=preprocessor,
    )


@pytest.mark.parametrize(
    "name", [name for name, codes in EXAMPLES.items() if codes]
)
def test_example(name, monkeypatch, tmp_path, one_draft_length):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        keras_hub.models.CausalLM, "from_preset", lambda preset: _model(2)
    )
    teacher, student = _model(0), _model(1)
    names = {
        "keras": keras,
        "keras_hub": keras_hub,
        "keras_skd": keras_skd,
        "teacher": teacher,
        "student": student,
        "tokenizer": student.preprocessor.tokenizer,
        "prompts": ["Hello", "Why"],
        "responses": ["Because", "2 + 2 = 4"],
    }
    needs_distiller = all("distiller = " not in code for code in EXAMPLES[name])
    if needs_distiller and any("distiller." in code for code in EXAMPLES[name]):
        names["distiller"] = keras_skd.Distiller(teacher, student)
    if any("distiller.fit" in code for code in EXAMPLES[name]):
        # An example need not call `compile` with the defaults.
        fit = keras_skd.Distiller.fit

        def compile_and_fit(self, *args, **kwargs):
            if not self.compiled:
                self.compile()
            return fit(self, *args, **kwargs)

        monkeypatch.setattr(keras_skd.Distiller, "fit", compile_and_fit)
    for code in EXAMPLES[name]:
        exec(compile(code, name, "exec"), names)


@pytest.mark.parametrize(
    "name", [name for name, lines in PROMPTS.items() if lines]
)
def test_prompt(name):
    for expression, expected in PROMPTS[name]:
        assert repr(eval(expression, {"keras_skd": keras_skd})) == expected


def test_classes_that_users_make_have_an_example():
    for package in PACKAGES[1:]:
        if package is keras_skd.decoding:
            continue
        for name, value in vars(package).items():
            if inspect.isclass(value) and not name.startswith("_"):
                full = f"{package.__name__}.{name}"
                is_abstract = full in {
                    "keras_skd.acceptance.AcceptanceRule",
                    "keras_skd.acceptance.DistributionRule",
                    "keras_skd.rollouts.Rollout",
                    "keras_skd.schedules.Schedule",
                }
                assert is_abstract or EXAMPLES[full] or PROMPTS[full], full
