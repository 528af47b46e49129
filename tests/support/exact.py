"""Exact distributions of whole sequences, from a tiny vocabulary.

Everything here is Python and NumPy on the logits of uncached forward passes: it
uses nothing of the library except the numbers of the sources.
"""

import itertools

import numpy as np
from scipy import stats

from keras_skd import Source
from tests.support import numerics

STUDENT, TEACHER = Source.STUDENT, Source.TEACHER


def softmax(logits, temperature=1.0):
    return numerics.softmax(np.asarray(logits, "float64") / temperature)


def top_k(logits, k, temperature=1.0):
    """The distribution of `keras_hub.samplers.TopKSampler`."""
    probabilities = softmax(logits, temperature)
    kept = np.zeros_like(probabilities)
    best = np.argsort(-probabilities)[:k]
    kept[best] = probabilities[best]
    return kept / kept.sum()


def top_p(logits, p, temperature=1.0):
    """The distribution of `keras_hub.samplers.TopPSampler`."""
    probabilities = softmax(logits, temperature)
    kept, mass = np.zeros_like(probabilities), 0.0
    for token in np.argsort(-probabilities):
        kept[token] = probabilities[token]
        mass += probabilities[token]
        if mass > p:
            break
    return kept / kept.sum()


class Conditionals:
    """The logits of a model after every possible beginning of a response.

    Args:
        forward: function from token ids to logits.
        prompt: tuple of ints.
        length: int. The length of the response.
        vocabulary_size: int.
    """

    def __init__(self, forward, prompt, length, vocabulary_size):
        responses = itertools.product(range(vocabulary_size), repeat=length)
        responses = np.array(list(responses), "int32")
        prompts = np.tile(np.array(prompt, "int32"), (len(responses), 1))
        logits = forward(np.concatenate([prompts, responses], axis=1))
        self.logits = {}
        for response, row in zip(responses.tolist(), logits):
            for i in range(length):
                prefix = tuple(response[:i])
                self.logits[prefix] = row[len(prompt) - 1 + i]

    def __getitem__(self, prefix):
        return self.logits[prefix]


def distribution(step, length, stop_token_ids=()):
    """The probability of each response with the author of each token.

    Args:
        step: function from a prefix and a state to the possible next tokens: a
            list of `(token, source, probability, state)`. The first state is 0.
        length: int. The length of a response without a stop token.
        stop_token_ids: tuple of ints.

    Returns:
        dict from `(tokens, sources)`, two tuples, to probabilities.
    """
    result = {}

    def extend(tokens, sources, probability, state):
        if len(tokens) == length or (tokens and tokens[-1] in stop_token_ids):
            key = tokens, sources
            result[key] = result.get(key, 0.0) + probability
            return
        for token, source, p, state_after in step(tokens, state):
            if p > 0:
                extend(
                    (*tokens, token),
                    (*sources, source),
                    probability * p,
                    state_after,
                )

    extend((), (), 1.0, 0)
    np.testing.assert_allclose(sum(result.values()), 1.0)
    return result


def top_k_gate(k):
    """Whether the teacher accepts each token, by rank in its raw logits."""

    def gate(teacher_logits, teacher_probabilities):
        accepted = np.zeros(len(teacher_logits), "bool")
        accepted[np.argsort(-teacher_logits)[:k]] = True
        return accepted

    return gate


def algorithm_1(student, teacher, draw_student, draw_teacher, gate):
    """The student samples; the teacher replaces tokens that it rejects.

    Args:
        student, teacher: `Conditionals`.
        draw_student, draw_teacher: functions from logits to probabilities.
        gate: function from the teacher's logits and its probabilities to the
            tokens that it accepts.

    Returns:
        The `step` of `distribution`.
    """

    def step(prefix, state):
        q = draw_student(student[prefix])
        p = draw_teacher(teacher[prefix])
        accepted = gate(teacher[prefix], p)
        rejected = q[~accepted].sum()
        for token in range(len(q)):
            stands = q[token] * accepted[token]
            yield token, STUDENT, stands, 0
            yield token, TEACHER, rejected * p[token], 0

    return step


def gate_on_another_draw(student, teacher, draw_student, draw_teacher, gate):
    """Wrong: tests a newly drawn token, and keeps the drafted one."""

    def step(prefix, state):
        q = draw_student(student[prefix])
        p = draw_teacher(teacher[prefix])
        accepts = q[gate(teacher[prefix], p)].sum()
        for token in range(len(q)):
            yield token, STUDENT, q[token] * accepts, 0
            yield token, TEACHER, (1 - accepts) * p[token], 0

    return step


def warped_top_k_gate(k):
    """Wrong: ranks the teacher's probabilities after temperature and top-p."""

    def gate(teacher_logits, teacher_probabilities):
        return top_k_gate(k)(teacher_probabilities, None)

    return gate


def with_bonus(num_drafts, student, teacher, draw_student, draw_teacher, gate):
    """Wrong: adds a token of the teacher after `num_drafts` accepted drafts."""
    right = algorithm_1(student, teacher, draw_student, draw_teacher, gate)

    def step(prefix, standing):
        if standing == num_drafts:
            for token, p in enumerate(draw_teacher(teacher[prefix])):
                yield token, TEACHER, p, 0
            return
        for token, source, p, _ in right(prefix, 0):
            yield token, source, p, standing + 1 if source == STUDENT else 0

    return step


def p_value(counts, expected):
    """The chi-square test of counted outcomes against their probabilities.

    Args:
        counts: dict from outcomes to ints.
        expected: dict from outcomes to probabilities. Outcomes that are to be
            expected fewer than five times are counted together.

    Returns:
        float: the probability of a deviation at least this large.
    """
    if set(counts) - set(expected):
        return 0.0
    n = sum(counts.values())
    cells = [[0, 0.0]]
    for outcome in sorted(expected, key=expected.get):
        if cells[-1][1] >= 5:
            cells.append([0, 0.0])
        cells[-1][0] += counts.get(outcome, 0)
        cells[-1][1] += n * expected[outcome]
    observed, predicted = zip(*cells)
    return stats.chisquare(observed, predicted, sum_check=False).pvalue


def sample(probabilities, n, seed=0):
    """Counts of `n` outcomes drawn from a distribution."""
    outcomes = list(probabilities)
    rng = np.random.default_rng(seed)
    p = np.array([probabilities[outcome] for outcome in outcomes])
    counts = rng.multinomial(n, p / p.sum())
    return {o: int(c) for o, c in zip(outcomes, counts) if c}


def count(written, prompt_length):
    """Counts the outcomes in a rollout of one prompt."""
    counts = {}
    for tokens, sources in zip(
        written["token_ids"].tolist(), written["sources"].tolist()
    ):
        end = prompt_length
        while end < len(sources) and sources[end]:
            end += 1
        outcome = (
            tuple(tokens[prompt_length:end]),
            tuple(sources[prompt_length:end]),
        )
        counts[outcome] = counts.get(outcome, 0) + 1
    return counts
