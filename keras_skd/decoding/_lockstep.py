"""Decoding in lock-step: one column at a time, one index for all rows.

This is simple, works for every architecture, including recurrent ones, and is
the reference that ragged decoding is tested against. Where a column is part of
a row's prompt, the row keeps the prompt's token.
"""

from keras import ops

from keras_skd._log_space import rank_of
from keras_skd._source import Source
from keras_skd.decoding._control_flow import while_loop
from keras_skd.decoding._prompts import columns
from keras_skd.decoding._records import DRAFT_POSITIONS
from keras_skd.decoding._records import REJECTED_RANKS
from keras_skd.decoding._records import wanted_records
from keras_skd.decoding._sampling import sample
from keras_skd.decoding._sequences import Sequences


def write(model, sampler, prompts, source, stop_token_ids):
    """Does what `decoding.write` does, in lock-step."""

    def choose(tokens, index, caches):
        logits, cache = _next_logits(model, tokens, index, caches[0])
        return sample(sampler, logits), source, {}, (cache,)

    sequences, _ = _walk(
        [model], sampler.variables, choose, prompts, stop_token_ids
    )
    return sequences


def speculate(student, teacher, verifier, prompts, stop_token_ids):
    """Runs Algorithm 1 of the SKD paper.

    The student samples a token; if the teacher does not accept it, the teacher
    samples its own.

    Args:
        student, teacher: `CachedCausalLM`s.
        verifier: a `DraftVerifier`.
        prompts: `Prompts`.
        stop_token_ids: tuple of ints.

    Returns:
        `(sequences, records)`: `Sequences`, all finished, and a dict of the
        `wanted_records()`, int32 tensors of shape `(batch, sequence_length)`.
    """
    wanted = wanted_records()

    def choose(tokens, index, caches):
        student_logits, student_cache = _next_logits(
            student, tokens, index, caches[0]
        )
        teacher_logits, teacher_cache = _next_logits(
            teacher, tokens, index, caches[1]
        )
        draft = verifier.draft(student_logits)
        distributions = verifier.distributions(teacher_logits, student_logits)
        accepted = verifier.accept(draft, distributions)
        is_draft = ops.ones_like(accepted)
        replacement = verifier.replace(distributions, is_draft)
        token = ops.where(accepted, draft, replacement)
        source = ops.where(accepted, Source.STUDENT.value, Source.TEACHER.value)
        # Every draft is the first and the last of its turn.
        records = {DRAFT_POSITIONS: ops.ones_like(token)}
        if REJECTED_RANKS in wanted:
            rank = rank_of(teacher_logits, draft)
            records[REJECTED_RANKS] = ops.where(accepted, 0, rank)
        records = {name: records[name] for name in wanted}
        return token, source, records, (student_cache, teacher_cache)

    return _walk(
        [student, teacher],
        verifier.variables,
        choose,
        prompts,
        stop_token_ids,
        wanted,
    )


def _next_logits(model, tokens, index, cache):
    logits, _, cache = model.extend(tokens[:, None], cache, index)
    return logits[:, 0], cache


def _walk(models, states, choose, prompts, stop_token_ids, records=()):
    """Goes from column to column, and appends the tokens from `choose`.

    Args:
        models: list of `CachedCausalLM`s that read every column.
        states: list of `keras.Variable`s that `choose` may assign.
        choose: callable from the tokens of a column, its index and the caches
            to the next tokens, their sources, a dict of what to record of
            them, and the caches.
        prompts: `Prompts`.
        stop_token_ids: tuple of ints.
        records: tuple of the names of what is recorded.

    Returns:
        `(sequences, records)`.
    """
    last = prompts.sequence_length - 1
    caches = tuple(
        m.empty_cache(prompts.batch_size, prompts.sequence_length)
        for m in models
    )
    # A recurrent model must read the tokens one by one.
    index = ops.zeros((), "int32")
    if all(model.can_roll_back for model in models):
        index = ops.min(prompts.lengths) - 1
        caches = tuple(
            model.prefill(prompts.token_ids, cache, 0, index)
            for model, cache in zip(models, caches)
        )

    def cond(index, sequences, records, caches):
        return ~ops.all(sequences.finished) & (index < last)

    def body(index, sequences, records, caches):
        tokens = ops.take(sequences.token_ids, index, axis=1)
        token, source, new, caches = choose(tokens, index, caches)
        # Finished rows and longer prompts end at a different column.
        at_end = sequences.ends == index + 1
        added = (at_end & ~sequences.finished)[:, None]
        added = added & (columns(sequences.token_ids) == index + 1)
        records = {
            name: ops.where(added, new[name][:, None], old)
            for name, old in records.items()
        }
        sequences = sequences.append(token, source, stop_token_ids, at_end)
        return index + 1, sequences, records, caches

    records = {name: ops.zeros_like(prompts.token_ids) for name in records}
    _, sequences, records, _ = while_loop(
        cond,
        body,
        (index, Sequences.start(prompts), records, caches),
        constants=[v for m in models for v in m.model.variables],
        states=states,
    )
    return sequences, records
