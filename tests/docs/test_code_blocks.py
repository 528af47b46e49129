"""The Python of the documentation runs, on tiny models.

The blocks of a document are run in turn, as one script. Three things differ
from a user's run: a preset is a tiny random model with its own tokenizer, a
speculative rollout compiles for one number of drafts, and files are written to
a temporary folder. A block that cannot run comes after
`<!-- not run: REASON -->`.
"""

import pathlib
import re
import string

import keras_hub
import pytest

from tests.support import tokenizers
from tests.support.causal_lms import causal_lm

ROOT = pathlib.Path(__file__).parents[2]
BLOCK = re.compile(
    r"^(?P<mark><!-- not run: [^\n]+ -->\n+)?```python\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


def blocks(document):
    """The blocks to run, each at the line at which it stands."""
    text = document.read_text()
    for match in BLOCK.finditer(text):
        if match["mark"] is None:
            line = text.count("\n", 0, match.start("code"))
            yield "\n" * line + match["code"]


DOCUMENTS = [
    document
    for document in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    )
    if any(blocks(document))
]


def use_tiny_presets(monkeypatch):
    """Lets `from_preset` make a tiny model, if it is not one that was saved."""
    from_preset = keras_hub.models.CausalLM.from_preset
    seeds = {}

    def from_name(preset, *args, **kwargs):
        if pathlib.Path(preset).is_dir():
            return from_preset(preset, *args, **kwargs)
        # Letters and signs that do not occur in the sentences.
        letters = " ".join(string.ascii_letters + string.punctuation)
        preprocessor = tokenizers.gemma(
            [*tokenizers.SENTENCES, letters], turns=True
        )
        return causal_lm(
            "gemma",
            seed=seeds.setdefault(preset, len(seeds)),
            vocabulary_size=preprocessor.tokenizer.vocabulary_size(),
            num_layers=1,
            preprocessor=preprocessor,
        )

    monkeypatch.setattr(keras_hub.models.CausalLM, "from_preset", from_name)


@pytest.fixture
def tiny_presets(monkeypatch, tmp_path, one_draft_length):
    use_tiny_presets(monkeypatch)
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)
def test_blocks_run(document, tiny_presets):
    script = {"__name__": document.stem}
    for block in blocks(document):
        exec(compile(block, str(document), "exec"), script)


def test_few_blocks_are_not_run():
    marks = [
        match["mark"]
        for document in DOCUMENTS
        for match in BLOCK.finditer(document.read_text())
        if match["mark"] is not None
    ]
    assert len(marks) <= 4
