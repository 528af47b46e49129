"""Decoding with each row at its own position.

Rows have prompts of different lengths, stop at different tokens and accept
different numbers of drafts; none waits for another. The same sequences as
`lockstep.py` writes, in fewer and wider forward passes.

Attention runs over the whole of a cache, written or not. So both functions
here work in stages: the caches start short, and grow when a row gets there.
"""

from keras import ops

from keras_skd import _source as sources
from keras_skd.decoding._control_flow import switch
from keras_skd.decoding._control_flow import while_loop
from keras_skd.decoding._sampling import sample
from keras_skd.decoding._sequences import before_any
from keras_skd.decoding._sequences import columns
from keras_skd.decoding._sequences import is_stop
from keras_skd.decoding._sequences import put
from keras_skd.decoding._sequences import with_prompts


def write(model, sampler, prompts, source, stop_token_ids):
    """Lets one model write every response. See `lockstep.write`."""
    sequence_length = prompts.sequence_length
    state = {
        "token_ids": prompts.token_ids,
        "end": prompts.lengths,
        "finished": prompts.full,
        "cache": model.empty_cache(prompts.batch_size, 0),
    }

    def body(state, length):
        token_ids, end = state["token_ids"], state["end"]
        finished = state["finished"]
        # A row that is full has nothing to read: anywhere in the cache will do.
        position = ops.minimum(end, length) - 1
        logits, cache = _read(model, token_ids, position, state["cache"])
        token = sample(sampler, logits)
        token_ids = put(token, end, token_ids, where=~finished)
        end = ops.where(finished, end, end + 1)
        finished = finished | is_stop(token, stop_token_ids)
        finished = finished | (end >= prompts.limits)
        return (
            {
                "token_ids": token_ids,
                "end": end,
                "finished": finished,
                "cache": cache,
            },
        )

    for previous, length in _stages(sequence_length):
        state["cache"] = model.grow_cache(state["cache"], length)
        state["cache"] = model.prefill(
            prompts.token_ids, state["cache"], previous, prompts.longest - 1
        )

        def fits(state, length=length):
            fits = state["finished"] | (state["end"] <= length)
            return ops.all(fits) & ~ops.all(state["finished"])

        (state,) = while_loop(
            fits,
            lambda state, length=length: body(state, length),
            (state,),
            constants=model.model.variables,
            states=sampler.variables,
        )
    token_sources = ops.full_like(state["token_ids"], source)
    return {
        "token_ids": state["token_ids"],
        "sources": with_prompts(token_sources, prompts, state["end"]),
    }


def speculate(
    student,
    teacher,
    gate,
    prompts,
    num_speculative_tokens,
    stop_token_ids,
    teacher_prompts=None,
    bonus=False,
):
    """Algorithm 1 of the SKD paper, several drafted tokens at a time.

    In every round, each row drafts a few tokens with the student, the teacher
    reads them all in one pass, and the row keeps those before the first one
    that is not accepted, which is replaced. There is no bonus token when all
    are accepted: the student would not have proposed it.

    Rejected drafts are not cleaned up. What they left in the caches lies
    beyond the end of the row, hidden by the causal mask, until it is written
    over.

    Args:
        student, teacher: `CachedCausalLM`s.
        gate: an `acceptance.Gate`.
        prompts: `Prompts`.
        num_speculative_tokens: a `NumDrafts`.
        stop_token_ids: tuple of ints.
        teacher_prompts: `Prompts` that the teacher sees in place of the
            student's, or `None`.
        bonus: bool. Whether the teacher adds a token of its own where all
            drafts are accepted, as in lossless speculative decoding.

    Returns:
        dict of `"token_ids"` and `"sources"`, of shape
        `(batch, sequence_length)`, of the `"teacher_hidden_states"` that each
        next token was tested with, `(batch, sequence_length, hidden_dim)`, and
        of `"drafts_tested"` and `"teacher_calls"`, the numbers of drafts that
        the gate decided on and of teacher passes, of shape `(batch,)`.
    """
    sequence_length = prompts.sequence_length
    widths = [n + bonus for n in num_speculative_tokens.choices]
    widths = sorted({min(width, sequence_length) for width in widths})
    teacher_prompts = teacher_prompts or prompts
    # A teacher that sees another prompt reads the response further on.
    offset = teacher_prompts.lengths - prompts.lengths
    teacher_surplus = teacher_prompts.sequence_length - sequence_length
    # A step of decoding takes as long as its weights take to be read.
    student_cost = student.model.count_params() / teacher.model.count_params()

    def draft(state, num_drafts, length):
        """The student writes after the end of each row, on approval."""
        end, finished = state["end"], state["finished"]

        def body(i, token_ids, cache, drafted_logits):
            # A row that is full has nothing to read: anywhere in the cache
            # will do, and `put` drops what would fall outside.
            position = ops.minimum(end - 1 + i, length - 1)
            logits, cache = _read(student, token_ids, position, cache)
            if gate.needs_student_logits:
                drafted_logits = ops.slice_update(
                    drafted_logits,
                    (0, i, 0),
                    ops.cast(logits, "float32")[:, None],
                )
            token = gate.draft(logits)
            # With a bonus token, the last draft is read but none follows it.
            writes = ~finished & (i < num_drafts)
            token_ids = put(token, end + i, token_ids, writes)
            return i + 1, token_ids, cache, drafted_logits

        shape = (prompts.batch_size, widths[-1], student.vocabulary_size)
        _, token_ids, cache, drafted_logits = while_loop(
            lambda i, *_: i < num_drafts + int(bonus),
            body,
            (
                ops.zeros((), "int32"),
                state["token_ids"],
                state["student_cache"],
                ops.zeros(shape if gate.needs_student_logits else (1, 1, 1)),
            ),
            constants=student.model.variables,
            states=gate.variables,
        )
        return token_ids, cache, drafted_logits

    def verify(width, length, token_ids, end, cache):
        """The teacher reads the drafts.

        The window starts at the last token that stands, or earlier where the
        row is nearly full: reading a token again changes nothing. Returns the
        positions of the tokens that the logits predict.
        """
        length = length + teacher_surplus
        start = ops.minimum(end - 1 + offset, length - width)
        window = start[:, None] + ops.arange(width)
        tokens = ops.take_along_axis(
            token_ids,
            ops.clip(window - offset[:, None], 0, sequence_length - 1),
            axis=1,
        )
        if teacher_prompts is not prompts:
            in_prompt = window < teacher_prompts.lengths[:, None]
            prompt = ops.take_along_axis(
                teacher_prompts.token_ids, window, axis=1
            )
            tokens = ops.where(in_prompt, prompt, tokens)
        logits, hidden_states, cache = teacher.extend_rows(tokens, cache, start)
        return window - offset[:, None] + 1, logits, hidden_states, cache

    def judge(width, length, state, token_ids, num_drafts, drafted_logits):
        """The teacher decides on the drafts, read in a window of `width`.

        Returns what is new of the state. Logits stay in here, so that windows
        of different widths return the same shapes.
        """
        end, finished = state["end"], state["finished"]
        position, logits, hidden_states, teacher_cache = verify(
            width, length, token_ids, end, state["teacher_cache"]
        )
        drafted = ops.take_along_axis(
            token_ids, ops.clip(position, 0, sequence_length - 1), axis=1
        )
        is_draft = (position >= end[:, None]) & (position < sequence_length)
        is_draft = is_draft & (position < (end + num_drafts)[:, None])
        student_logits = None
        if gate.needs_student_logits:
            i = ops.clip(position - end[:, None], 0, widths[-1] - 1)
            student_logits = ops.take_along_axis(
                drafted_logits, i[..., None], axis=1
            )
        accepted = gate.accept(drafted, logits, student_logits) & is_draft
        tested = is_draft
        if bonus:
            # The position after the drafts: nothing stands there.
            after = position == (end + num_drafts)[:, None]
            tested = tested | (after & (position < sequence_length))
        stops = accepted & is_stop(drafted, stop_token_ids)
        # A row's turn ends with its first rejected or its first stop token.
        in_turn = tested & before_any(tested & (~accepted | stops))
        kept, rejected = in_turn & accepted, in_turn & ~accepted

        first = ops.argmax(ops.cast(rejected, "int32"), axis=1)[:, None]
        replaces = ops.any(rejected, axis=1) & ~finished

        def at_first(logits):
            at = ops.take_along_axis(logits, first[..., None], axis=1)
            return at[:, 0]

        replacement = gate.replace(
            at_first(logits),
            None if student_logits is None else at_first(student_logits),
            ops.take_along_axis(is_draft, first, axis=1)[:, 0],
        )
        num_kept = ops.sum(ops.cast(kept, "int32"), axis=1)
        num_kept = ops.where(finished, 0, num_kept)
        num_tested = ops.sum(ops.cast(in_turn & is_draft, "int32"), axis=1)
        num_tested = ops.where(finished, 0, num_tested)

        stop = end + num_kept
        token_ids = put(replacement, stop, token_ids, replaces)
        column = columns(token_ids)
        token_sources = ops.where(
            (column >= end[:, None]) & (column < stop[:, None]),
            sources.STUDENT,
            state["sources"],
        )
        teacher_source = ops.full_like(stop, sources.TEACHER)
        token_sources = put(teacher_source, stop, token_sources, replaces)
        end = stop + ops.cast(replaces, "int32")
        stopped = ops.any(kept & stops, axis=1) | (
            replaces & is_stop(replacement, stop_token_ids)
        )
        return {
            "token_ids": token_ids,
            "sources": token_sources,
            "end": end,
            "finished": finished | stopped | (end >= sequence_length),
            "teacher_cache": teacher_cache,
            "teacher_hidden_states": _place(
                hidden_states,
                position - 1,
                state["teacher_hidden_states"],
                ~finished,
            ),
            "acceptance": num_speculative_tokens.update(
                state["acceptance"], num_kept, num_tested
            ),
            "drafts_tested": state["drafts_tested"] + num_tested,
            "teacher_calls": state["teacher_calls"]
            + ops.cast(~finished, "int32"),
        }

    def body(state, length):
        # No more than there is room for in the row that has most of it.
        room = ops.where(state["finished"], 1, sequence_length - state["end"])
        num_drafts = ops.minimum(
            num_speculative_tokens(state["acceptance"], student_cost),
            ops.minimum(ops.max(room), widths[-1] - bonus),
        )
        token_ids, student_cache, drafted_logits = draft(
            state, num_drafts, length
        )
        judged = switch(
            sum(ops.cast(num_drafts + bonus > w, "int32") for w in widths[:-1]),
            [
                lambda width=width: judge(
                    width, length, state, token_ids, num_drafts, drafted_logits
                )
                for width in widths
            ],
            constants=teacher.model.variables,
            states=gate.variables,
        )
        return {**judged, "student_cache": student_cache}

    hidden_shape = (prompts.batch_size, sequence_length, teacher.hidden_dim)
    state = {
        "token_ids": prompts.token_ids,
        "sources": ops.zeros_like(prompts.token_ids),
        "end": prompts.lengths,
        "finished": prompts.full,
        "student_cache": student.empty_cache(prompts.batch_size, 0),
        "teacher_cache": teacher.empty_cache(prompts.batch_size, 0),
        "teacher_hidden_states": ops.zeros(
            hidden_shape, dtype=teacher.compute_dtype
        ),
        "acceptance": num_speculative_tokens.initial(),
        "drafts_tested": ops.zeros_like(prompts.lengths),
        "teacher_calls": ops.zeros_like(prompts.lengths),
    }
    for previous, length in _stages(sequence_length):
        state["student_cache"] = student.prefill(
            prompts.token_ids,
            student.grow_cache(state["student_cache"], length),
            previous,
            prompts.longest - 1,
        )
        state["teacher_cache"] = teacher.prefill(
            teacher_prompts.token_ids,
            teacher.grow_cache(
                state["teacher_cache"], length + teacher_surplus
            ),
            previous + teacher_surplus if previous else 0,
            teacher_prompts.longest - 1,
        )
        is_last = length == sequence_length

        def fits(state, length=length, is_last=is_last):
            room = state["end"] - 1 + widths[-1] <= length
            fits = state["finished"] | room | is_last
            return ops.all(fits) & ~ops.all(state["finished"])

        (state,) = while_loop(
            fits,
            lambda state, length=length: (body(state, length),),
            (state,),
            constants=student.model.variables + teacher.model.variables,
            states=gate.variables,
        )
    num_speculative_tokens.remember(state["acceptance"])
    return {
        "token_ids": state["token_ids"],
        "sources": with_prompts(state["sources"], prompts, state["end"]),
        "teacher_hidden_states": state["teacher_hidden_states"],
        "drafts_tested": state["drafts_tested"],
        "teacher_calls": state["teacher_calls"],
    }


def _stages(sequence_length, first=128, factor=4):
    """Pairs of a stage's cache length and the one before it."""
    lengths = [0]
    while first < sequence_length:
        lengths.append(first)
        first *= factor
    lengths.append(sequence_length)
    return list(zip(lengths, lengths[1:]))


def _read(model, token_ids, positions, cache):
    """The logits of the token after each row's own position."""
    tokens = ops.take_along_axis(token_ids, positions[:, None], axis=1)
    logits, _, cache = model.extend_rows(tokens, cache, positions)
    return logits[:, 0], cache


def _place(values, positions, sequences, where):
    """Writes a run of vectors a row, at consecutive positions."""
    i = columns(sequences) - positions[:, :1]
    here = (i >= 0) & (i < positions.shape[1]) & where[:, None]
    i = ops.clip(i, 0, positions.shape[1] - 1)
    written = ops.take_along_axis(values, i[..., None], axis=1)
    return ops.where(here[..., None], written, sequences)
