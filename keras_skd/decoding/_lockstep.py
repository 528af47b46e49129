"""Decoding in lock-step: one column at a time, one index for all rows.

The obvious way, for every architecture, and the yardstick for the fast one in
`ragged.py`. Rows whose prompt covers a column keep the prompt's token.
"""

from keras import ops

from keras_skd import _source as sources
from keras_skd.decoding._control_flow import while_loop
from keras_skd.decoding._sampling import sample
from keras_skd.decoding._sequences import columns
from keras_skd.decoding._sequences import is_stop
from keras_skd.decoding._sequences import with_prompts


def write(model, sampler, prompts, source, stop_token_ids):
    """Lets one model write every response.

    Args:
        model: a `CachedCausalLM`.
        sampler: a `keras_hub.samplers.Sampler`.
        prompts: `Prompts`.
        source: int. What to note as the source of a written token.
        stop_token_ids: tuple of ints.

    Returns:
        dict of `"token_ids"` and `"sources"`, of shape
        `(batch, sequence_length)`.
    """

    def choose(column, caches):
        logits, cache = _read(model, column, caches[0])
        token = sample(sampler, logits)
        return token, ops.full_like(token, source), (cache,)

    return _walk([model], sampler.variables, choose, prompts, stop_token_ids)


def speculate(student, teacher, gate, prompts, stop_token_ids):
    """Algorithm 1 of the SKD paper, to the letter.

    The student samples a token; if the teacher does not accept it, the teacher
    samples its own.

    Args:
        student, teacher: `CachedCausalLM`s.
        gate: an `acceptance.Gate`.
        prompts: `Prompts`.
        stop_token_ids: tuple of ints.

    Returns:
        dict of `"token_ids"` and `"sources"`, of shape
        `(batch, sequence_length)`.
    """

    def choose(column, caches):
        student_logits, student_cache = _read(student, column, caches[0])
        teacher_logits, teacher_cache = _read(teacher, column, caches[1])
        draft = gate.draft(student_logits)
        accepted = gate.accept(draft, teacher_logits, student_logits)
        replacement = gate.replace(teacher_logits, student_logits)
        token = ops.where(accepted, draft, replacement)
        source = ops.where(accepted, sources.STUDENT, sources.TEACHER)
        return token, source, (student_cache, teacher_cache)

    return _walk(
        [student, teacher], gate.variables, choose, prompts, stop_token_ids
    )


def _read(model, column, cache):
    """The logits of the token after `column`, a `(tokens, index)` pair."""
    tokens, index = column
    logits, _, cache = model.extend(tokens[:, None], cache, index)
    return logits[:, 0], cache


def _walk(models, variables, choose, prompts, stop_token_ids):
    sequence_length = prompts.sequence_length
    caches = tuple(
        m.empty_cache(prompts.batch_size, sequence_length) for m in models
    )
    # A state that cannot be rolled back has to see every token in its turn.
    index = ops.zeros((), "int32")
    if all(model.can_roll_back for model in models):
        index = ops.min(prompts.lengths) - 1
        caches = tuple(
            model.prefill(prompts.token_ids, cache, 0, index)
            for model, cache in zip(models, caches)
        )

    def cond(index, end, finished, token_ids, token_sources, caches):
        return ~ops.all(finished) & (index < sequence_length - 1)

    def body(index, end, finished, token_ids, token_sources, caches):
        tokens = ops.take(token_ids, index, axis=1)
        token, source, caches = choose((tokens, index), caches)
        writes = (index + 1 >= prompts.lengths) & ~finished
        here = (columns(token_ids) == index + 1) & writes[:, None]
        token_ids = ops.where(here, token[:, None], token_ids)
        token_sources = ops.where(here, source[:, None], token_sources)
        end = ops.where(writes, index + 2, end)
        finished = finished | (writes & is_stop(token, stop_token_ids))
        finished = finished | (end >= prompts.limits)
        return index + 1, end, finished, token_ids, token_sources, caches

    _, end, _, token_ids, token_sources, _ = while_loop(
        cond,
        body,
        (
            index,
            prompts.lengths,
            prompts.full,
            prompts.token_ids,
            ops.zeros_like(prompts.token_ids),
            caches,
        ),
        constants=[v for m in models for v in m.model.variables],
        states=variables,
    )
    return {
        "token_ids": token_ids,
        "sources": with_prompts(token_sources, prompts, end),
    }
