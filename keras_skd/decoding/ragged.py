"""Decoding with each row at its own position.

Rows have prompts of different lengths, stop at different tokens and accept
different numbers of drafts; none waits for another. The same sequences as
`lockstep.py` writes, in fewer and wider forward passes.
"""

from keras import ops

from keras_skd import sources
from keras_skd.decoding.sampling import sample
from keras_skd.decoding.sequences import before_any
from keras_skd.decoding.sequences import columns
from keras_skd.decoding.sequences import is_stop
from keras_skd.decoding.sequences import put
from keras_skd.decoding.while_loop import while_loop


def write(model, sampler, token_ids, lengths, source, stop_token_ids):
    """Lets one model write every response. See `lockstep.write`."""
    sequence_length = token_ids.shape[1]
    cache = _prefilled_cache(model, token_ids, lengths)

    def cond(token_ids, lengths, finished, cache):
        return ops.logical_not(ops.all(finished))

    def body(token_ids, end, finished, cache):
        logits, cache = _read(model, token_ids, end - 1, cache)
        token = sample(sampler, logits)
        token_ids = put(token, end, token_ids, where=~finished)
        end = ops.where(finished, end, end + 1)
        finished = finished | is_stop(token, stop_token_ids)
        return token_ids, end, finished | (end >= sequence_length), cache

    token_ids, end, _, _ = while_loop(
        cond,
        body,
        (token_ids, lengths, lengths >= sequence_length, cache),
        constants=model.model.variables,
        states=sampler.variables,
    )
    return token_ids, _sources(ops.full_like(token_ids, source), lengths, end)


def speculate(
    student,
    teacher,
    student_sampler,
    teacher_sampler,
    acceptance,
    num_speculative_tokens,
    token_ids,
    lengths,
    stop_token_ids,
):
    """Algorithm 1 of the SKD paper, several drafted tokens at a time.

    In every round, each row drafts up to `num_speculative_tokens` tokens with
    the student, the teacher reads them all in one pass, and the row keeps
    those before the first one that is not accepted, which is replaced. There
    is no bonus token when all are accepted: the student would not have
    proposed it.

    Rejected drafts are not cleaned up. What they left in the caches lies
    beyond the end of the row, hidden by the causal mask, until it is written
    over.

    Args:
        num_speculative_tokens: int.
        For the others, see `lockstep.speculate`.

    Returns:
        `(token_ids, sources)`, both of shape `(batch, sequence_length)`.
    """
    sequence_length = token_ids.shape[1]
    width = min(num_speculative_tokens, sequence_length)
    prompt_lengths = lengths

    def draft(token_ids, end, finished, cache):
        """The student writes after the end of each row, on approval."""

        def body(i, token_ids, cache):
            # A row that is full reads its last token again; `put` drops what
            # would fall outside.
            position = ops.minimum(end - 1 + i, sequence_length - 1)
            logits, cache = _read(student, token_ids, position, cache)
            token = sample(student_sampler, logits)
            return i + 1, put(token, end + i, token_ids, ~finished), cache

        _, token_ids, cache = while_loop(
            lambda i, token_ids, cache: i < width,
            body,
            (ops.zeros((), "int32"), token_ids, cache),
            constants=student.model.variables,
            states=student_sampler.variables,
        )
        return token_ids, cache

    def verify(token_ids, end, cache):
        """The teacher reads the drafts.

        The window starts at the last token that stands, or earlier where the
        row is nearly full: reading a token again changes nothing. Returns the
        positions whose tokens the logits predict.
        """
        start = ops.minimum(end - 1, sequence_length - width)
        window = start[:, None] + ops.arange(width)
        tokens = ops.take_along_axis(token_ids, window, axis=1)
        logits, _, cache = teacher.extend_rows(tokens, cache, start)
        return window + 1, logits, cache

    def cond(token_ids, token_sources, end, finished, caches):
        return ops.logical_not(ops.all(finished))

    def body(token_ids, token_sources, end, finished, caches):
        student_cache, teacher_cache = caches
        token_ids, student_cache = draft(
            token_ids, end, finished, student_cache
        )
        window, logits, teacher_cache = verify(token_ids, end, teacher_cache)

        drafted = ops.take_along_axis(
            token_ids, ops.minimum(window, sequence_length - 1), axis=1
        )
        is_draft = (window >= end[:, None]) & (window < sequence_length)
        accepted = acceptance.accept(drafted, logits)
        stops = accepted & is_stop(drafted, stop_token_ids)
        # A row's turn ends with its first rejected or its first stop token.
        in_turn = is_draft & before_any(is_draft & (~accepted | stops))
        kept = in_turn & accepted
        rejected = in_turn & ~accepted

        first = ops.argmax(ops.cast(rejected, "int32"), axis=1)
        at_first = ops.take_along_axis(logits, first[:, None, None], axis=1)
        replacement = sample(teacher_sampler, at_first[:, 0])
        replaces = ops.any(rejected, axis=1) & ~finished
        num_kept = ops.sum(ops.cast(kept, "int32"), axis=1)
        num_kept = ops.where(finished, 0, num_kept)

        position = end + num_kept
        token_ids = put(replacement, position, token_ids, replaces)
        by_student = (columns(token_ids) >= end[:, None]) & (
            columns(token_ids) < position[:, None]
        )
        token_sources = ops.where(by_student, sources.STUDENT, token_sources)
        token_sources = put(
            ops.full_like(position, sources.TEACHER),
            position,
            token_sources,
            replaces,
        )
        end = position + ops.cast(replaces, "int32")
        stopped = ops.any(kept & stops, axis=1) | (
            replaces & is_stop(replacement, stop_token_ids)
        )
        finished = finished | stopped | (end >= sequence_length)
        caches = (student_cache, teacher_cache)
        return token_ids, token_sources, end, finished, caches

    caches = tuple(
        _prefilled_cache(model, token_ids, lengths)
        for model in (student, teacher)
    )
    token_ids, token_sources, end, _, _ = while_loop(
        cond,
        body,
        (
            token_ids,
            ops.zeros_like(token_ids),
            lengths,
            lengths >= sequence_length,
            caches,
        ),
        constants=student.model.variables + teacher.model.variables,
        states=student_sampler.variables + teacher_sampler.variables,
    )
    return token_ids, _sources(token_sources, prompt_lengths, end)


def _prefilled_cache(model, token_ids, lengths):
    cache = model.empty_cache(ops.shape(token_ids)[0], token_ids.shape[1])
    return model.prefill(token_ids, cache, ops.max(lengths) - 1)


def _read(model, token_ids, positions, cache):
    """The logits of the token after each row's own position."""
    tokens = ops.take_along_axis(token_ids, positions[:, None], axis=1)
    logits, _, cache = model.extend_rows(tokens, cache, positions)
    return logits[:, 0], cache


def _sources(token_sources, lengths, end):
    """Prompt before `lengths`, padding from `end`, `token_sources` between."""
    column = columns(token_sources)
    token_sources = ops.where(
        column < lengths[:, None], sources.PROMPT, token_sources
    )
    return ops.where(column < end[:, None], token_sources, sources.PADDING)
