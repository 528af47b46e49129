"""What every task has: data, splits, a tokenizer and a metric."""

import functools
import hashlib
import typing


class Pair(typing.NamedTuple):
    """A prompt and its reference response."""

    prompt: str
    response: str


class Scores(typing.NamedTuple):
    """The scores of a list of outputs.

    The score of a set of items is `100 * sum(numerators) / sum(denominators)`,
    so that sets can be resampled.

    Args:
        numerators: list of ints, one for each item.
        denominators: list of ints, one for each item.
        others: dict from the names of further metrics to floats, in percent.
    """

    numerators: list
    denominators: list
    others: dict

    @property
    def percent(self):
        return 100 * sum(self.numerators) / sum(self.denominators)


class Task:
    """Base class of tasks.

    Attributes:
        name: str.
        metric: str, what `score` measures in percent.
        lower_is_better: bool, of the metric.
        easy: str, what `is_easy` selects.
        sequence_length: int, tokens in a prompt and its response.
        scaled_k: int. The paper's K = 25 for this vocabulary: 25 of a thousand
            tokens or more, a tenth of those that occur in responses of fewer.
        teacher_steps: int, those that a full teacher is trained for.
        num_test, num_development: int, items in these splits.
    """

    lower_is_better = False
    teacher_steps = 2500
    num_test = 500
    num_development = 500

    def load(self) -> list:
        """All pairs, in any order. Loaded anew in each call."""
        raise NotImplementedError

    def key(self, pair) -> str:
        """What two pairs have in common that must be in the same split."""
        return pair.prompt

    def is_easy(self, pair) -> bool:
        """Whether a student is pretrained on this pair of the train split."""
        raise NotImplementedError

    def tokenizer(self):
        """A new `keras_hub.tokenizers.Llama3Tokenizer`."""
        raise NotImplementedError

    def score(self, pairs, outputs) -> Scores:
        """Compares the outputs (strings) with the references of the pairs."""
        raise NotImplementedError

    @functools.cached_property
    def splits(self) -> dict:
        """Lists of pairs by `"train"`, `"development"` and `"test"`."""
        return split(self.load(), self.key, self.num_test, self.num_development)

    @property
    def train(self):
        return self.splits["train"]

    @property
    def development(self):
        return self.splits["development"]

    @property
    def test(self):
        return self.splits["test"]

    def prompts(self, size) -> list:
        """The pairs that a student is distilled on: the first of the split.

        The order of the split is that of hashes, so they are a random sample,
        and a smaller sample is part of a larger one.
        """
        return self.train[:size]

    @functools.cached_property
    def easy_pairs(self) -> list:
        """The pairs that a student is pretrained on."""
        # None of those that any student is distilled on.
        return [pair for pair in self.train[1000:] if self.is_easy(pair)]


def split(pairs, key, num_test, num_development):
    """Splits pairs by a hash of their keys.

    Pairs with the same key are in the same split, whatever the order of
    `pairs` is, and however many there are.

    Returns:
        dict of the lists `"test"`, `"development"` and `"train"`, each in the
        order of the hashes.
    """
    by_hash: dict[str, list] = {}
    for pair in pairs:
        digest = hashlib.sha256(key(pair).encode()).hexdigest()
        by_hash.setdefault(digest, []).append(pair)
    splits: dict[str, list] = {"test": [], "development": [], "train": []}
    for _, group in sorted(by_hash.items()):
        if len(splits["test"]) < num_test:
            splits["test"].append(group[0])
        elif len(splits["development"]) < num_development:
            splits["development"].append(group[0])
        else:
            splits["train"] += group
    return splits
