"""Decoding by segments: whole sentences, steps or actions stand or fall.

The student writes one segment of each row, the teacher reads it and the score
decides; where it fails, the teacher writes a segment of its own. Each row is at
its own position, as in `ragged.py`.
"""

from keras import ops

from keras_skd import _source as sources
from keras_skd.decoding._control_flow import while_loop
from keras_skd.decoding._sampling import sample
from keras_skd.decoding._sequences import columns
from keras_skd.decoding._sequences import is_stop
from keras_skd.decoding._sequences import put
from keras_skd.decoding._sequences import with_prompts

# How many tokens of a segment are read at once.
_WIDTH = 16


def speculate(
    student,
    teacher,
    student_sampler,
    teacher_sampler,
    accept,
    prompts,
    segment_end_token_ids,
    stop_token_ids,
):
    """Algorithm 1 of the SKD paper, with segments in the place of tokens.

    Args:
        student, teacher: `CachedCausalLM`s.
        student_sampler, teacher_sampler: `keras_hub.samplers.Sampler`s.
        accept: callable from the tokens, of shape `(batch, sequence_length)`,
            the mask of the segment, and the teacher's log-probability of each
            of its tokens, 0 elsewhere, to a bool tensor of shape `(batch,)`.
        prompts: `Prompts`.
        segment_end_token_ids: tuple of ints.
        stop_token_ids: tuple of ints.

    Returns:
        dict of `"token_ids"` and `"sources"`, of shape
        `(batch, sequence_length)`.
    """
    length = prompts.sequence_length
    models = (student, teacher)
    samplers = (student_sampler, teacher_sampler)
    segment_ends = (*segment_end_token_ids, *stop_token_ids)

    def write(which, token_ids, end, done, cache):
        """One model goes on until each row has ended a segment."""
        model, sampler = models[which], samplers[which]

        def body(token_ids, end, done, cache):
            position = ops.minimum(end, length) - 1
            tokens = ops.take_along_axis(token_ids, position[:, None], axis=1)
            logits, _, cache = model.extend_rows(tokens, cache, position)
            token = sample(sampler, logits[:, 0])
            token_ids = put(token, end, token_ids, ~done)
            end = ops.where(done, end, end + 1)
            done = done | is_stop(token, segment_ends) | (end >= length)
            return token_ids, end, done, cache

        token_ids, end, _, cache = while_loop(
            lambda token_ids, end, done, cache: ~ops.all(done),
            body,
            (token_ids, end, done, cache),
            constants=model.model.variables,
            states=sampler.variables,
        )
        return token_ids, end, cache

    def read(which, token_ids, start, end, cache):
        """One model reads up to each row's end.

        Returns its log-probabilities of the tokens from `start` to `end`, of
        shape `(batch, sequence_length)`, and the cache.
        """
        model, width = models[which], min(_WIDTH, length)

        def body(position, log_probs, cache):
            first = ops.minimum(position, length - width)
            window = first[:, None] + ops.arange(width)
            tokens = ops.take_along_axis(token_ids, window, axis=1)
            logits, _, cache = model.extend_rows(tokens, cache, first)
            following = ops.minimum(window + 1, length - 1)
            following = ops.take_along_axis(token_ids, following, axis=1)
            at_following = ops.take_along_axis(
                ops.log_softmax(ops.cast(logits, "float32")),
                following[..., None],
                axis=-1,
            )[..., 0]
            i = columns(token_ids) - window[:, :1] - 1
            here = (i >= 0) & (i < width)
            at_column = ops.take_along_axis(
                at_following, ops.clip(i, 0, width - 1), axis=1
            )
            log_probs = ops.where(here, at_column, log_probs)
            return position + width, log_probs, cache

        _, log_probs, cache = while_loop(
            lambda position, log_probs, cache: ops.any(position < end - 1),
            body,
            (start - 1, ops.zeros(ops.shape(token_ids)), cache),
            constants=model.model.variables,
        )
        return log_probs, cache

    def body(token_ids, token_sources, end, finished, caches):
        student_cache, teacher_cache = caches
        column = columns(token_ids)
        start = end
        token_ids, end, student_cache = write(
            0, token_ids, start, finished, student_cache
        )
        segment = (column >= start[:, None]) & (column < end[:, None])
        log_probs, teacher_cache = read(1, token_ids, start, end, teacher_cache)
        log_probs = ops.where(segment, log_probs, 0.0)
        stands = accept(token_ids, segment, log_probs) | finished
        # Where it fails, the teacher writes over it, and the student reads on.
        token_ids, end, teacher_cache = write(
            1,
            token_ids,
            ops.where(stands, end, start),
            stands,
            teacher_cache,
        )
        _, student_cache = read(0, token_ids, start, end, student_cache)
        segment = (column >= start[:, None]) & (column < end[:, None])
        author = ops.where(stands, sources.STUDENT, sources.TEACHER)
        token_sources = ops.where(segment, author[:, None], token_sources)
        last = ops.take_along_axis(token_ids, end[:, None] - 1, axis=1)[:, 0]
        stopped = is_stop(last, stop_token_ids) | (end >= length)
        caches = (student_cache, teacher_cache)
        return token_ids, token_sources, end, finished | stopped, caches

    caches = tuple(
        model.prefill(
            prompts.token_ids,
            model.empty_cache(prompts.batch_size, length),
            0,
            prompts.longest - 1,
        )
        for model in models
    )
    token_ids, token_sources, end, _, _ = while_loop(
        lambda token_ids, token_sources, end, finished, caches: (
            ~ops.all(finished)
        ),
        body,
        (
            prompts.token_ids,
            ops.zeros_like(prompts.token_ids),
            prompts.lengths,
            prompts.full,
            caches,
        ),
        constants=student.model.variables + teacher.model.variables,
        states=student_sampler.variables + teacher_sampler.variables,
    )
    return {
        "token_ids": token_ids,
        "sources": with_prompts(token_sources, prompts, end),
    }
