"""Decoding in lock-step: one column at a time, one index for all rows.

The obvious way, for every architecture, and the yardstick for the fast one in
`ragged.py`. Rows whose prompt covers a column keep the prompt's token.
"""

from keras import ops

from keras_skd import sources
from keras_skd.decoding.sampling import sample
from keras_skd.decoding.sequences import columns
from keras_skd.decoding.sequences import is_stop
from keras_skd.decoding.while_loop import while_loop


def write(model, sampler, token_ids, lengths, source, stop_token_ids):
    """Lets one model write every response.

    Args:
        model: a `CachedCausalLM`.
        sampler: a `keras_hub.samplers.Sampler`.
        token_ids: int32 tensor of shape `(batch, sequence_length)`, prompts.
        lengths: int32 tensor of shape `(batch,)`, the prompts' lengths.
        source: int. What to note as the source of a written token.
        stop_token_ids: tuple of ints, or `None`.

    Returns:
        `(token_ids, sources)`, both of shape `(batch, sequence_length)`.
    """

    def choose(column, caches):
        (cache,) = caches
        logits, cache = _read(model, column, cache)
        token = sample(sampler, logits)
        return token, ops.full_like(token, source), (cache,)

    return _walk(
        [model], sampler.variables, choose, token_ids, lengths, stop_token_ids
    )


def speculate(
    student,
    teacher,
    student_sampler,
    teacher_sampler,
    acceptance,
    token_ids,
    lengths,
    stop_token_ids,
):
    """Algorithm 1 of the SKD paper, to the letter.

    The student samples a token; if the teacher does not accept it, the teacher
    samples its own.

    Args:
        student, teacher: `CachedCausalLM`s.
        student_sampler, teacher_sampler: `keras_hub.samplers.Sampler`s.
        acceptance: a `keras_skd.acceptance.AcceptanceRule`.
        token_ids, lengths, stop_token_ids: as in `write`.

    Returns:
        `(token_ids, sources)`, both of shape `(batch, sequence_length)`.
    """

    def choose(column, caches):
        student_cache, teacher_cache = caches
        student_logits, student_cache = _read(student, column, student_cache)
        teacher_logits, teacher_cache = _read(teacher, column, teacher_cache)
        draft = sample(student_sampler, student_logits)
        accepted = acceptance.accept(draft, teacher_logits)
        replacement = sample(teacher_sampler, teacher_logits)
        token = ops.where(accepted, draft, replacement)
        source = ops.where(accepted, sources.STUDENT, sources.TEACHER)
        return token, source, (student_cache, teacher_cache)

    variables = student_sampler.variables + teacher_sampler.variables
    return _walk(
        [student, teacher],
        variables,
        choose,
        token_ids,
        lengths,
        stop_token_ids,
    )


def _read(model, column, cache):
    """The logits of the token after `column`, a `(tokens, index)` pair."""
    tokens, index = column
    logits, _, cache = model.extend(tokens[:, None], cache, index)
    return logits[:, 0], cache


def _walk(models, variables, choose, token_ids, lengths, stop_token_ids):
    batch_size, sequence_length = ops.shape(token_ids)[0], token_ids.shape[1]
    caches = tuple(m.empty_cache(batch_size, sequence_length) for m in models)
    # A state that cannot be rolled back has to see every token in its turn.
    index = ops.zeros((), "int32")
    if all(model.can_roll_back for model in models):
        index = ops.min(lengths) - 1
        caches = tuple(
            model.prefill(token_ids, cache, index)
            for model, cache in zip(models, caches)
        )
    token_sources = ops.where(
        columns(token_ids) < lengths[:, None], sources.PROMPT, sources.PADDING
    )

    def cond(index, finished, token_ids, token_sources, caches):
        more = ops.logical_not(ops.all(finished))
        return ops.logical_and(more, index < sequence_length - 1)

    def body(index, finished, token_ids, token_sources, caches):
        tokens = ops.take(token_ids, index, axis=1)
        token, source, caches = choose((tokens, index), caches)
        writes = ops.logical_and(index + 1 >= lengths, ~finished)
        here = ops.logical_and(columns(token_ids) == index + 1, writes[:, None])
        token_ids = ops.where(here, token[:, None], token_ids)
        token_sources = ops.where(here, source[:, None], token_sources)
        stopped = ops.logical_and(writes, is_stop(token, stop_token_ids))
        finished = ops.logical_or(finished, stopped)
        return index + 1, finished, token_ids, token_sources, caches

    _, _, token_ids, token_sources, _ = while_loop(
        cond,
        body,
        (index, lengths >= sequence_length, token_ids, token_sources, caches),
        constants=[v for m in models for v in m.model.variables],
        states=variables,
    )
    return token_ids, token_sources
