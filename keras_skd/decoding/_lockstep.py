"""Decoding in lock-step: one column at a time, one index for all rows.

This is simple, works for every architecture, including recurrent ones, and is
the reference that ragged decoding is tested against. Where a column is part of
a row's prompt, the row keeps the prompt's token.
"""

from keras import ops

from keras_skd._source import Source
from keras_skd.decoding._control_flow import while_loop
from keras_skd.decoding._sampling import sample
from keras_skd.decoding._sequences import Sequences


def write(model, sampler, prompts, source, stop_token_ids):
    """Does what `decoding.write` does, in lock-step."""

    def choose(tokens, index, caches):
        logits, cache = _next_logits(model, tokens, index, caches[0])
        return sample(sampler, logits), source, (cache,)

    return _walk([model], sampler.variables, choose, prompts, stop_token_ids)


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
        `Sequences`, all finished.
    """

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
        return token, source, (student_cache, teacher_cache)

    return _walk(
        [student, teacher], verifier.variables, choose, prompts, stop_token_ids
    )


def _next_logits(model, tokens, index, cache):
    logits, _, cache = model.extend(tokens[:, None], cache, index)
    return logits[:, 0], cache


def _walk(models, states, choose, prompts, stop_token_ids):
    """Goes from column to column, and appends the tokens from `choose`.

    Args:
        models: list of `CachedCausalLM`s that read every column.
        states: list of `keras.Variable`s that `choose` may assign.
        choose: callable from the tokens of a column, its index and the caches
            to the next tokens, their sources and the caches.
        prompts: `Prompts`.
        stop_token_ids: tuple of ints.
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

    def cond(index, sequences, caches):
        return ~ops.all(sequences.finished) & (index < last)

    def body(index, sequences, caches):
        tokens = ops.take(sequences.token_ids, index, axis=1)
        token, source, caches = choose(tokens, index, caches)
        # Finished rows and longer prompts end at a different column.
        at_end = sequences.ends == index + 1
        sequences = sequences.append(token, source, stop_token_ids, at_end)
        return index + 1, sequences, caches

    _, sequences, _ = while_loop(
        cond,
        body,
        (index, Sequences.start(prompts), caches),
        constants=[v for m in models for v in m.model.variables],
        states=states,
    )
    return sequences
