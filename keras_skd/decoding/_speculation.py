"""Ragged speculative decoding: Algorithm 1 of the SKD paper, batched.

Rows have prompts of different lengths, stop at different tokens and accept
different numbers of drafts; no row waits for another. `_lockstep.py` writes the
same sequences one token at a time.
"""

import copy
from typing import NamedTuple

from keras import KerasTensor
from keras import ops

from keras_skd._log_space import rank_of
from keras_skd._source import Source
from keras_skd.decoding._compaction import last_rows
from keras_skd.decoding._compaction import more_are_left
from keras_skd.decoding._compaction import num_last_rows
from keras_skd.decoding._compaction import put_rows
from keras_skd.decoding._compaction import take_rows
from keras_skd.decoding._control_flow import switch
from keras_skd.decoding._control_flow import while_loop
from keras_skd.decoding._prompts import columns
from keras_skd.decoding._records import DRAFT_POSITIONS
from keras_skd.decoding._records import REJECTED_RANKS
from keras_skd.decoding._records import wanted_records
from keras_skd.decoding._sequences import Sequences
from keras_skd.decoding._sequences import is_stop
from keras_skd.decoding._sequences import up_to_first
from keras_skd.decoding._stages import cache_stages
from keras_skd.decoding._writing import next_logits


class State(NamedTuple):
    """The state of the loop over the rounds of speculation.

    Attributes:
        sequences: `Sequences`.
        teacher_ends: int32 tensor of shape `(batch,)`, the number of tokens of
            each row as the teacher reads it, which may have other prompts.
        student_cache, teacher_cache: caches of all tokens but the last of each
            row, and of rejected drafts: these lie beyond the end of the row,
            hidden by the causal mask, until they are overwritten. Where
            the teacher adds a bonus token after the drafts, the student has
            not read the last draft either.
        teacher_hidden_states: tensor of shape `(batch, length, hidden_dim)`, as
            long as the student's cache, from which the teacher predicted each
            next token.
        acceptance_rate: the estimate of `DraftLength`: a float scalar, or `()`.
        num_tested: int32 tensor of shape `(batch,)`, drafts tested so far.
        num_teacher_calls: int32 tensor of shape `(batch,)`.
        records: dict of int32 tensors of shape `(batch, sequence_length)`, the
            `wanted_records()` so far.
    """

    sequences: Sequences
    teacher_ends: KerasTensor
    student_cache: object
    teacher_cache: object
    teacher_hidden_states: KerasTensor
    acceptance_rate: KerasTensor
    num_tested: KerasTensor
    num_teacher_calls: KerasTensor
    records: dict


class Drafts(NamedTuple):
    """The student's drafts of a round.

    Attributes:
        sequences: `Sequences`, with the drafts in `token_ids` after the end of
            each row.
        count: int32 scalar, the number of drafts of each row.
        student_logits: float32 tensor of shape
            `(batch, most drafts, vocabulary_size)`, from which they were
            drawn; of size 1 if the rule does not need them.
    """

    sequences: Sequences
    count: KerasTensor
    student_logits: KerasTensor


class Reading(NamedTuple):
    """The teacher's pass over a window of each row.

    Attributes:
        positions: int32 tensor of shape `(batch, width)`, the positions of the
            tokens that are predicted, in the student's sequences.
        logits: tensor of shape `(batch, width, vocabulary_size)`.
        hidden_states: tensor of shape `(batch, width, hidden_dim)`.
        cache: the teacher's cache.
    """

    positions: KerasTensor
    logits: KerasTensor
    hidden_states: KerasTensor
    cache: object


class Verdict(NamedTuple):
    """The outcome of a round for each row: tensors of shape `(batch,)`.

    Attributes:
        num_accepted: int32. The number of accepted drafts.
        num_tested: int32. The number of accepted and rejected drafts.
        replaces: bool. Whether the teacher writes a token after the accepted.
        replacement: int32. The teacher's token.
        rejected_rank: int32. The teacher's rank of the draft that it replaces,
            or 0; `None` unless it is recorded.
    """

    num_accepted: KerasTensor
    num_tested: KerasTensor
    replaces: KerasTensor
    replacement: KerasTensor
    rejected_rank: KerasTensor | None = None


def accept(tested, accepted, stops):
    """Returns the accepted and the rejected positions of each row's turn.

    A turn ends with the first position that is not accepted or holds a stop
    token. What follows is neither accepted nor rejected.

    Args:
        tested: bool tensor of shape `(batch, width)`. The positions that the
            rule tests.
        accepted: bool tensor of the same shape. Those that the rule accepts.
        stops: bool tensor of the same shape. Those that hold a stop token.

    Returns:
        Two bool tensors of the same shape.
    """
    ends_turn = tested & (~accepted | stops)
    in_turn = tested & up_to_first(ends_turn)
    return in_turn & accepted, in_turn & ~accepted


class SpeculativeDecoder:
    """Student and teacher write in turn.

    In every round, each row drafts a few tokens with the student, the teacher
    reads them all in one pass, and the row keeps those before the first one
    that is rejected, which the teacher replaces.

    Args:
        student, teacher: `CachedCausalLM`s that can roll back.
        verifier: a `DraftVerifier`.
        draft_length: a `DraftLength`.
        prompts: `Prompts`.
        stop_token_ids: tuple of ints.
        bonus: bool. Whether the teacher adds a token where all drafts are
            accepted, as in lossless speculative decoding. In distillation it
            does not: the student would not have proposed that token.
    """

    def __init__(
        self,
        student,
        teacher,
        verifier,
        draft_length,
        prompts,
        stop_token_ids=(),
        bonus=False,
    ):
        self.student = student
        self.teacher = teacher
        self.verifier = verifier
        self.draft_length = draft_length
        self.prompts = prompts
        self.stop_token_ids = stop_token_ids
        self.bonus = int(bonus)
        self.records = wanted_records()
        # The widths of the teacher's window, each of which is compiled.
        widths = [n + self.bonus for n in draft_length.choices]
        self.widths = sorted({min(n, prompts.sequence_length) for n in widths})
        # The time of a decoding step is that of reading the weights.
        self.student_cost = (
            student.model.count_params() / teacher.model.count_params()
        )

    def __call__(self) -> State:
        """Writes every response."""
        student, teacher = self.student, self.teacher
        sequence_length = self.prompts.sequence_length
        surplus = self.prompts.teacher.sequence_length - sequence_length
        num_last = num_last_rows(self.prompts.batch_size)
        state = self._start()
        for previous, length in cache_stages(sequence_length):
            state = state._replace(
                student_cache=student.prefill(
                    self.prompts.token_ids,
                    student.grow_cache(state.student_cache, length),
                    previous,
                    self.prompts.longest - 1,
                ),
                teacher_cache=teacher.prefill(
                    self.prompts.teacher.token_ids,
                    teacher.grow_cache(state.teacher_cache, length + surplus),
                    previous + surplus if previous else 0,
                    self.prompts.teacher.longest - 1,
                ),
                teacher_hidden_states=_widen(
                    state.teacher_hidden_states, length
                ),
            )
            state = self._rounds(state, length, num_last)
        if num_last:
            state = self._write_last_rows(state, length, num_last)
        self.draft_length.commit(state.acceptance_rate)
        return state._replace(
            teacher_hidden_states=_widen(
                state.teacher_hidden_states, sequence_length
            )
        )

    def _rounds(self, state, length, num_last=0):
        """Rounds until a row does not fit, or only the last rows are left."""
        is_whole = length == self.prompts.sequence_length

        def fits(state):
            sequences = state.sequences
            room = sequences.ends - 1 + self.widths[-1] <= length
            fits = sequences.finished | room | is_whole
            return ops.all(fits) & more_are_left(sequences.finished, num_last)

        student, teacher = self.student.model, self.teacher.model
        (state,) = while_loop(
            fits,
            lambda state: (self.round(state),),
            (state,),
            constants=student.variables + teacher.variables,
            states=self.verifier.variables,
        )
        return state

    def _write_last_rows(self, state, length, num_last):
        index = last_rows(state.sequences.finished, num_last)
        decoder = copy.copy(self)
        decoder.prompts = self.prompts.take(index)
        rows = decoder._rounds(take_rows(state, index), length)
        without_caches = {"student_cache": (), "teacher_cache": ()}
        return put_rows(
            state._replace(**without_caches),
            index,
            rows._replace(**without_caches),
        )

    def _start(self):
        prompts, teacher = self.prompts, self.teacher
        # Widened with the caches: each round goes over all of it.
        shape = prompts.batch_size, 0, teacher.hidden_dim
        return State(
            sequences=Sequences.start(prompts),
            teacher_ends=prompts.teacher.lengths,
            student_cache=self.student.empty_cache(prompts.batch_size, 0),
            teacher_cache=teacher.empty_cache(prompts.batch_size, 0),
            teacher_hidden_states=ops.zeros(shape, teacher.compute_dtype),
            acceptance_rate=self.draft_length.init(),
            num_tested=ops.zeros_like(prompts.lengths),
            num_teacher_calls=ops.zeros_like(prompts.lengths),
            records={
                name: ops.zeros_like(prompts.token_ids) for name in self.records
            },
        )

    def round(self, state: State) -> State:
        """Draft, verify, accept, commit."""
        drafts, student_cache = self.draft(state)
        # Logits stay inside the branches, so that windows of different widths
        # return the same shapes.
        state = switch(
            self._window(drafts.count),
            [
                lambda width=width: self._finish_round(state, drafts, width)
                for width in self.widths
            ],
            states=self.verifier.variables,
        )
        return state._replace(student_cache=student_cache)

    def _window(self, count):
        """The index of the narrowest width that the drafts fit into."""
        wider = (count + self.bonus > width for width in self.widths[:-1])
        return sum(ops.cast(is_wider, "int32") for is_wider in wider)

    def _finish_round(self, state, drafts, width):
        reading = self.verify(state, drafts, width)
        verdict = self.accept(drafts, reading)
        # Branches do not return the student's cache, which they do not change.
        return self.commit(state, drafts, reading, verdict)._replace(
            student_cache=()
        )

    def draft(self, state: State):
        """The student drafts tokens after the end of each row.

        Returns:
            `(drafts, student_cache)`.
        """
        sequences = state.sequences
        verifier, bonus = self.verifier, self.bonus
        # No more tokens than fit into the row with the most room.
        room = sequences.limits - sequences.ends
        room = ops.max(ops.where(sequences.finished, 1, room))
        count = ops.minimum(
            self.draft_length.choose(
                state.acceptance_rate, self.student_cost, bonus
            ),
            ops.clip(room, 0, self.widths[-1] - bonus),
        )

        def body(i, token_ids, cache, drafted_logits, width=1):
            written = sequences._replace(token_ids=token_ids)
            logits, cache = next_logits(
                self.student, written, cache, ahead=i, width=width
            )
            if verifier.compares_distributions:
                drafted_logits = ops.slice_update(
                    drafted_logits,
                    (0, i, 0),
                    ops.cast(logits, "float32")[:, None],
                )
            token = verifier.draft(logits)
            here = columns(token_ids) == (sequences.ends + i)[:, None]
            here = here & (~sequences.finished & (i < count))[:, None]
            token_ids = ops.where(here, token[:, None], token_ids)
            return i + 1, token_ids, cache, drafted_logits

        shape = (1, 1, 1)
        if verifier.compares_distributions:
            vocabulary_size = self.student.vocabulary_size
            shape = (self.prompts.batch_size, self.widths[-1], vocabulary_size)
        drafting = (
            ops.zeros((), "int32"),
            sequences.token_ids,
            state.student_cache,
            ops.zeros(shape, "float32"),
        )
        if bonus:
            # The last draft, which the student has not read, and the bonus.
            drafting = body(*drafting, width=2)
        _, token_ids, cache, drafted_logits = while_loop(
            lambda i, *_: i < count,
            body,
            drafting,
            states=verifier.variables,
        )
        sequences = sequences._replace(token_ids=token_ids)
        return Drafts(sequences, count, drafted_logits), cache

    def verify(self, state: State, drafts: Drafts, width: int) -> Reading:
        """The teacher reads the drafts in one pass.

        The window starts at the last token of the row, or earlier where the
        row is nearly full: reading a token again changes nothing.
        """
        prompts, cache = self.prompts, state.teacher_cache
        # Not from the prompts' offsets, which no round changes: of what a loop
        # does not change, XLA in TensorFlow makes constants where it can, and
        # would compile the loop again for each batch.
        start = state.teacher_ends - 1
        start = ops.clip(start, 0, self.teacher.cache_length(cache) - width)
        window = start[:, None] + ops.arange(width, dtype="int32")
        positions = (
            window - (state.teacher_ends - state.sequences.ends)[:, None]
        )
        tokens = self._at(drafts.sequences.token_ids, positions)
        if prompts.teacher is not prompts:
            prompt = ops.take_along_axis(
                prompts.teacher.token_ids, window, axis=1
            )
            in_prompt = window < prompts.teacher.lengths[:, None]
            tokens = ops.where(in_prompt, prompt, tokens)
        logits, hidden_states, cache = self.teacher.extend_rows(
            tokens, cache, start
        )
        return Reading(positions + 1, logits, hidden_states, cache)

    def accept(self, drafts: Drafts, reading: Reading) -> Verdict:
        """The rule tests the drafts; the first rejected one is replaced."""
        sequences, positions = drafts.sequences, reading.positions
        index = positions - sequences.ends[:, None]
        in_row = (positions < self.prompts.sequence_length) & (index >= 0)
        is_draft = in_row & (index < drafts.count)
        student_logits = None
        if self.verifier.compares_distributions:
            at = ops.clip(index, 0, self.widths[-1] - 1)
            student_logits = ops.take_along_axis(
                drafts.student_logits, at[..., None], axis=1
            )
        distributions = self.verifier.distributions(
            reading.logits, student_logits
        )
        drafted = self._at(sequences.token_ids, positions)
        accepted = self.verifier.accept(drafted, distributions) & is_draft
        # The position of a bonus token holds no draft to accept.
        tested = in_row & (index < drafts.count + self.bonus)
        stops = is_stop(drafted, self.stop_token_ids)
        accepted, rejected = accept(tested, accepted, stops)

        first = ops.argmax(ops.cast(rejected, "int32"), axis=1)[:, None]
        replacement = self.verifier.replace(
            [
                ops.take_along_axis(x, first[..., None], axis=1)[:, 0]
                for x in distributions
            ],
            ops.take_along_axis(is_draft, first, axis=1)[:, 0],
        )
        rank = None
        if REJECTED_RANKS in self.records:
            rank = rank_of(
                ops.take_along_axis(reading.logits, first[..., None], axis=1),
                ops.take_along_axis(drafted, first, axis=1),
            )[:, 0]
        active = ops.cast(~sequences.finished, "int32")
        num_accepted = ops.sum(ops.cast(accepted, "int32"), axis=1)
        num_rejected = ops.sum(ops.cast(rejected & is_draft, "int32"), axis=1)
        return Verdict(
            num_accepted=active * num_accepted,
            num_tested=active * (num_accepted + num_rejected),
            replaces=ops.any(rejected, axis=1),
            replacement=replacement,
            rejected_rank=rank,
        )

    def commit(
        self, state: State, drafts: Drafts, reading: Reading, verdict: Verdict
    ) -> State:
        """Appends the accepted drafts and the teacher's token to each row."""
        active = ~state.sequences.finished
        sequences = drafts.sequences.advance(
            verdict.num_accepted, Source.STUDENT, self.stop_token_ids
        ).append(
            verdict.replacement,
            Source.TEACHER,
            self.stop_token_ids,
            where=verdict.replaces,
        )
        return state._replace(
            sequences=sequences,
            teacher_ends=state.teacher_ends
            + (sequences.ends - state.sequences.ends),
            teacher_cache=reading.cache,
            teacher_hidden_states=_place(
                reading.hidden_states,
                reading.positions - 1,
                state.teacher_hidden_states,
                active,
            ),
            acceptance_rate=self.draft_length.update(
                state.acceptance_rate,
                verdict.num_accepted,
                verdict.num_tested,
            ),
            num_tested=state.num_tested + verdict.num_tested,
            num_teacher_calls=state.num_teacher_calls
            + ops.cast(active, "int32"),
            records=self._record(state, sequences, verdict),
        )

    def _record(self, state, sequences, verdict):
        """The records, with those of the tokens that a round has added."""
        if not state.records:
            return state.records
        column = columns(sequences.token_ids)
        position = column - state.sequences.ends[:, None] + 1
        is_new = (position >= 1) & (column < sequences.ends[:, None])
        records = dict(state.records)
        if DRAFT_POSITIONS in records:
            records[DRAFT_POSITIONS] = ops.where(
                is_new, position, records[DRAFT_POSITIONS]
            )
        if REJECTED_RANKS in records:
            # The last of the tokens is in the place of the rejected draft.
            is_new = is_new & (position == verdict.num_accepted[:, None] + 1)
            records[REJECTED_RANKS] = ops.where(
                is_new, verdict.rejected_rank[:, None], records[REJECTED_RANKS]
            )
        return records

    def _at(self, token_ids, positions):
        positions = ops.clip(positions, 0, self.prompts.sequence_length - 1)
        return ops.take_along_axis(token_ids, positions, axis=1)


def _widen(x, length):
    """Adds columns of zeros, up to a length."""
    return ops.pad(x, [(0, 0), (0, length - x.shape[1]), (0, 0)])


def _place(values, positions, sequences, where):
    """Writes a run of vectors in each row, at consecutive positions."""
    i = columns(sequences) - positions[:, :1]
    here = (i >= 0) & (i < positions.shape[1]) & where[:, None]
    i = ops.clip(i, 0, positions.shape[1] - 1)
    written = ops.take_along_axis(values, i[..., None], axis=1)
    return ops.where(here[..., None], written, sequences)
