"""Splits and metrics. No data are downloaded, and no model is run."""

import io
import itertools
import json
import random
import zipfile

import pytest

from experiments.cache import check_digest
from experiments.tasks import TASKS
from experiments.tasks import arithmetic
from experiments.tasks import pronunciation
from experiments.tasks import tokenizers
from experiments.tasks import translation
from experiments.tasks.task import Pair
from experiments.tasks.task import split

PAIRS = [Pair(f"word {i}", f" answer {i}") for i in range(200)]


def test_splits_are_disjoint_and_complete():
    splits = split(PAIRS, lambda pair: pair.prompt, 20, 30)
    assert [len(splits[name]) for name in ("test", "development")] == [20, 30]
    assert sorted(itertools.chain(*splits.values())) == sorted(PAIRS)


def test_a_split_depends_on_no_order():
    shuffled = random.Random(0).sample(PAIRS, len(PAIRS))
    key = TASKS["pronunciation"].key
    assert split(shuffled, key, 20, 30) == split(PAIRS, key, 20, 30)


def test_the_same_english_in_other_letters_is_in_the_same_split():
    key = TASKS["translation"].key
    pairs = [
        pair
        for i in range(100)
        for pair in (
            Pair(f"Open door {i} =>", f" Tür {i} öffnen"),
            Pair(f"open Door: {i} =>", f" Öffne Tür {i}"),
        )
    ]
    splits = split(pairs, key, 10, 10)
    keys = [{key(pair) for pair in part} for part in splits.values()]
    assert sum(map(len, keys)) == len(set.union(*keys)) == 100
    # No item is counted twice.
    assert len(splits["test"]) == len(keys[0]) == 10


def test_the_dictionary_is_read_without_stress_and_variants():
    text = (
        "abbey AE1 B IY0\nabbey(2) AE1 B EY0\n'em AH0 M\n"
        "aaliyah AA2 L IY1 AA2 # name, arabic\n"
    )
    assert pronunciation.read(text) == [
        Pair("abbey", " AE B IY"),
        Pair("aaliyah", " AA L IY AA"),
    ]


def test_phoneme_errors():
    scores = pronunciation.phoneme_errors(
        [" AE B IY", " K AE T", " D AO G"], ["AE B IY", "K T T S", ""]
    )
    # One substitution and one insertion; three deletions.
    assert scores.numerators == [0, 2, 3]
    assert scores.denominators == [3, 3, 3]
    assert scores.percent == pytest.approx(100 * 5 / 9)
    assert scores.others["word accuracy"] == pytest.approx(100 / 3)


def test_strings_are_aligned_by_component_and_key():
    folder = "homeassistant/components/{}/translations/{}.json"
    files = {
        folder.format("lamp", "en"): {"state": {"on": "On", "off": "Off"}},
        folder.format("lamp", "de"): {"state": {"on": "An", "off": "Off"}},
        folder.format("door", "en"): {"state": {"on": "Open"}, "x": "Shut"},
        folder.format("door", "de"): {"state": {"on": "Offen"}},
    }
    with zipfile.ZipFile(io.BytesIO(), "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, json.dumps(content))
        pairs = translation.read(wheel)
    assert sorted(pairs) == [Pair("On =>", " An"), Pair("Open =>", " Offen")]


def test_chrf():
    references = [" Tür öffnen", " Fenster schließen"]
    same = translation.chrf(references, ["Tür öffnen", "Fenster schließen"])
    assert same.percent == same.others["corpus chrF"] == 100
    half = translation.chrf(references, ["Tür öffnen", ""])
    assert half.percent == 50


def test_sums_are_worked():
    pair = arithmetic.worked("7 + 8 - 20")
    assert pair == Pair("7+8-20=", "7+8=15,15-20=-5#-5")


def test_exact_match_is_of_the_answer():
    pairs = [arithmetic.worked("7 + 8 - 20")] * 4
    outputs = ["7+8=15,15-20=-5#-5", "7+8=5#-5", "7+8=15#5", "7+8=15"]
    scores = TASKS["arithmetic"].score(pairs, outputs)
    assert scores.numerators == [1, 1, 0, 0]
    assert scores.others["all steps right"] == 25


def test_a_unit_is_one_token():
    tokenizer = tokenizers.from_units(["a", "b", "ĠAH", "ĠB"])
    tokens = [tokenizer.id_to_token(i) for i in tokenizer("ab")]
    assert tokens == ["a", "b"]
    ids = tokenizer(" B AH B")
    assert [tokenizer.id_to_token(i) for i in ids] == ["ĠB", "ĠAH", "ĠB"]
    assert tokenizer.detokenize(ids) == " B AH B"


def test_trained_byte_pairs_keep_every_text():
    texts = ["Tür öffnen =>", "Fenster schließen =>", "Tür schließen =>"]
    tokenizer = tokenizers.train_byte_pairs(texts * 3, 300)
    assert tokenizer.vocabulary_size() <= 300
    for text in (*texts, "neu: 100 %"):
        assert tokenizer.detokenize(tokenizer(text)) == text
    assert len(tokenizer(texts[0])) < len(texts[0].encode())


def test_other_data_are_refused():
    with pytest.raises(ValueError, match="not the data"):
        check_digest(b"other", arithmetic.SHA256, "`chain_sum`")
