"""Who wrote what, as HTML in which nothing runs."""

import html.parser

import numpy as np
import pytest
from IPython.core.formatters import DisplayFormatter
from keras import ops

from keras_skd import Source
from keras_skd.visualization import show_rollout
from tests.support import tokenizers
from tests.support.causal_lms import causal_lm
from tests.support.distillers import TRAINING
from tests.support.distillers import text_distiller

HOSTILE = (
    "<script>alert('1')</script> \"><img src=x onerror=alert(2)> &lt; </div>"
)


class Parser(html.parser.HTMLParser):
    """What a browser sees: tags, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.titles, self.texts = [], [], [], []
        self.depth = 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attributes]
        self.titles.append(dict(attributes).get("title"))
        self.depth += 1

    def handle_endtag(self, tag):
        self.depth -= 1

    def handle_data(self, data):
        self.texts.append((data, self.titles[-1]))


def rollout_of(tokenizer, text, source, prompt="said"):
    prompt, response = ([*map(int, tokenizer(x))] for x in (prompt, text))
    ids = np.array([prompt + response])
    sources = [Source.PROMPT] * len(prompt) + [source] * len(response)
    return {"token_ids": ids, "sources": np.array([sources])}


@pytest.mark.parametrize("source", [Source.STUDENT, Source.TEACHER])
def test_hostile_text_is_text(source):
    tokenizer = tokenizers.gpt2([*tokenizers.SENTENCES, HOSTILE]).tokenizer
    view = show_rollout(rollout_of(tokenizer, HOSTILE, source), tokenizer)
    seen = Parser(view.html)
    assert {*seen.tags} == {"div", "p", "span"}
    assert {*seen.attributes} <= {"style", "title"}
    assert seen.depth == 0
    assert "".join(t for t, title in seen.texts if title) == f"said{HOSTILE}"
    data, _ = DisplayFormatter().format(view)
    assert data["text/html"] == view.html
    assert data["text/plain"] == str(view)
    assert HOSTILE in str(view)


def test_names_of_tokens_are_escaped():
    view = show_rollout(
        rollout_of(tokenizers.gemma().tokenizer, "said", Source.STUDENT)
        | {"token_ids": np.array([[1, 2]]), "sources": np.array([[1, 2]])},
        tokenizers.gemma(),
    )
    assert "&lt;bos&gt;" in view.html and "<bos>" not in view.html


def test_no_token_gives_orders_to_a_terminal():
    orders = "\x1b[2J\x07 \u202e"
    tokenizer = tokenizers.gemma([*tokenizers.SENTENCES, "abc"] * 3).tokenizer

    class Says(type(tokenizer)):
        """Writes one order for every token."""

        def detokenize(self, rows):
            return [orders * len(row) for row in rows]

    says = Says(tokenizer.proto)
    rollout = rollout_of(tokenizer, "said the Cat.", Source.TEACHER)
    for text in (
        show_rollout(rollout, says).text(),
        show_rollout(rollout, says).html,
    ):
        assert "\\x1b[2J" in text
        assert not {"\x1b", "\x07", "\u202e"} & {*text}


def test_a_token_says_what_the_teacher_thinks_of_it():
    distiller = text_distiller()
    rollout = distiller.generate_rollout(TRAINING, return_teacher_scores=True)
    inputs = {k: rollout[k] for k in ("token_ids", "padding_mask")}
    logits = ops.convert_to_numpy(distiller.teacher(inputs)).astype("float64")
    view = show_rollout(rollout, distiller)
    texts = [
        [text for text, title in Parser(view.html).texts if title is None],
        [title for _, title in Parser(view.html).texts if title is not None],
    ]
    assert {"prompt", "student", "teacher"} <= {*texts[0]}
    titles = iter(texts[1])
    for row, column in np.argwhere(rollout["padding_mask"]):
        title = next(titles)
        token_id = rollout["token_ids"][row, column]
        source = Source(rollout["sources"][row, column])
        name = source.name.lower()
        assert title.startswith(f"{name}, token {token_id}")
        ranks, probabilities = (
            rollout[key][row, column]
            for key in ("teacher_ranks", "teacher_probabilities")
        )
        if source == Source.PROMPT:
            assert "rank" not in title and ranks == probabilities == 0
            continue
        own = logits[row, column - 1]
        p = np.exp(own - own.max())[token_id] / np.exp(own - own.max()).sum()
        assert ranks == 1 + (own > own[token_id]).sum()
        assert probabilities == pytest.approx(p, rel=1e-3)
        assert title.endswith(f"rank {ranks}, probability {probabilities:.3g}")
        if source == Source.TEACHER:
            # It samples greedily here.
            assert ranks == 1


def test_teacher_scores_are_zero_outside_of_responses():
    distiller = text_distiller("supervised")
    data = {"prompts": ["said", "Alice was"], "responses": [" the Cat.", ""]}
    rollout = distiller.generate_rollout(data, return_teacher_scores=True)
    outside = ~rollout["response_mask"]
    assert (rollout["teacher_ranks"][outside] == 0).all()
    assert (rollout["teacher_ranks"][~outside] > 0).all()
    assert (rollout["teacher_probabilities"][outside] == 0).all()
    assert "teacher_ranks" not in distiller.generate_rollout(data)


def test_rows():
    rollout = {
        "token_ids": np.array([[5, 6], [7, 8]]),
        "sources": np.array([[1, 2], [1, 3]]),
    }
    assert str(show_rollout(rollout)) == " 5\n>  6\n\n 7\n> [ 8]"
    assert str(show_rollout(rollout, rows=[1])) == " 7\n> [ 8]"
    text = show_rollout(rollout, rows=[1]).text(color=True)
    assert text == "\x1b[2m 7\x1b[0m\x1b[1;35m 8\x1b[0m"
    with pytest.raises(ValueError, match=r"below 2. Received: \[2\]"):
        show_rollout(rollout, rows=[0, 2])


def test_bad_input():
    rollout = {"token_ids": np.ones((1, 2)), "sources": np.ones((1, 2))}
    with pytest.raises(TypeError, match="`rollout` must be a dict"):
        show_rollout([1, 2])
    with pytest.raises(ValueError, match=r"Received the keys: \['token_ids'\]"):
        show_rollout({"token_ids": np.ones((1, 2))})
    with pytest.raises(
        TypeError, match="`tokenizer` must be.*Received: 'gpt2'"
    ):
        show_rollout(rollout, "gpt2")


def test_whoever_has_a_tokenizer_will_do():
    preprocessor = tokenizers.gpt2()
    model = causal_lm(
        "gpt2",
        vocabulary_size=preprocessor.tokenizer.vocabulary_size(),
        preprocessor=preprocessor,
    )
    rollout = rollout_of(preprocessor.tokenizer, " the Cat.", Source.STUDENT)
    for owner in (preprocessor.tokenizer, preprocessor, model):
        assert str(show_rollout(rollout, owner)) == "said\n>  the Cat."
