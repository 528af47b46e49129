"""Speculation by segments: whole sentences, steps or actions are accepted.

In each round, the student drafts a segment of each row, and the teacher scores
it. If the score is too low, the teacher writes a segment instead. Every row is
at its own position.
"""

from keras import ops

from keras_skd._log_space import at_token
from keras_skd._source import Source
from keras_skd.decoding._control_flow import while_loop
from keras_skd.decoding._prompts import columns
from keras_skd.decoding._sampling import sample
from keras_skd.decoding._sequences import Sequences
from keras_skd.decoding._sequences import is_stop
from keras_skd.decoding._writing import next_logits

# The number of tokens of a segment that are read at once.
_WIDTH = 16


class SegmentDecoder:
    """Algorithm 1 of the SKD paper, with segments in place of tokens.

    Args:
        student, teacher: `CachedCausalLM`s that can roll back.
        student_sampler, teacher_sampler: `keras_hub.samplers.Sampler`s.
        score: callable from the tokens, of shape `(batch, sequence_length)`,
            the mask of the segment, and the teacher's log-probability of each
            of its tokens, 0 elsewhere, to a float tensor of shape `(batch,)`.
        threshold: float scalar. A segment with this score or more is accepted.
        prompts: `Prompts`.
        segment_end_token_ids: tuple of ints.
        stop_token_ids: tuple of ints.
    """

    def __init__(
        self,
        student,
        teacher,
        student_sampler,
        teacher_sampler,
        score,
        threshold,
        prompts,
        segment_end_token_ids,
        stop_token_ids,
    ):
        self.student = student
        self.teacher = teacher
        self.student_sampler = student_sampler
        self.teacher_sampler = teacher_sampler
        self.score = score
        self.threshold = threshold
        self.prompts = prompts
        self.segment_ends = (*segment_end_token_ids, *stop_token_ids)
        self.stop_token_ids = stop_token_ids

    def __call__(self) -> Sequences:
        """Writes every response."""
        prompts = self.prompts
        caches = [
            model.prefill(
                prompts.token_ids,
                model.empty_cache(prompts.batch_size, prompts.sequence_length),
                0,
                prompts.longest - 1,
            )
            for model in (self.student, self.teacher)
        ]
        sequences, *_ = while_loop(
            lambda sequences, *_: ~ops.all(sequences.finished),
            self.round,
            (Sequences.start(prompts), *caches),
            constants=self.student.model.variables
            + self.teacher.model.variables,
            states=self.student_sampler.variables
            + self.teacher_sampler.variables,
        )
        return sequences

    def round(self, sequences: Sequences, student_cache, teacher_cache):
        """Draft, verify, accept, replace."""
        start, finished = sequences.ends, sequences.finished
        drafted, student_cache = self._write_segment(
            self.student,
            self.student_sampler,
            Source.STUDENT,
            sequences,
            student_cache,
        )
        log_probs, teacher_cache = self._read_segment(
            self.teacher, drafted, start, teacher_cache
        )
        column = columns(drafted.token_ids)
        segment = column >= start[:, None]
        segment = segment & (column < drafted.ends[:, None])
        log_probs = ops.where(segment, log_probs, 0.0)
        score = self.score(drafted.token_ids, segment, log_probs)
        accepted = (score >= self.threshold) | finished
        # A rejected row is rolled back to the start of its segment.
        sequences = sequences._replace(
            token_ids=drafted.token_ids,
            sources=ops.where(
                accepted[:, None], drafted.sources, sequences.sources
            ),
            ends=ops.where(accepted, drafted.ends, start),
            finished=accepted,
        )
        sequences, teacher_cache = self._write_segment(
            self.teacher,
            self.teacher_sampler,
            Source.TEACHER,
            sequences,
            teacher_cache,
        )
        _, student_cache = self._read_segment(
            self.student, sequences, start, student_cache
        )
        last = ops.take_along_axis(
            sequences.token_ids, sequences.ends[:, None] - 1, axis=1
        )
        stopped = is_stop(last[:, 0], self.stop_token_ids)
        full = sequences.ends >= sequences.limits
        sequences = sequences._replace(finished=finished | stopped | full)
        return sequences, student_cache, teacher_cache

    def _write_segment(self, model, sampler, source, sequences, cache):
        """One model writes a segment in each row that is not `finished`.

        In the result, all rows are finished with their segment.
        """

        def body(sequences, cache):
            logits, cache = next_logits(model, sequences, cache)
            token = sample(sampler, logits)
            return sequences.append(token, source, self.segment_ends), cache

        return while_loop(
            lambda sequences, cache: ~ops.all(sequences.finished),
            body,
            (sequences, cache),
            states=sampler.variables,
        )

    def _read_segment(self, model, sequences, start, cache):
        """One model reads each row from `start` to its end.

        Returns:
            `(log_probs, cache)`, the model's log-probabilities of the tokens
            there, of shape `(batch, sequence_length)`.
        """
        token_ids = sequences.token_ids
        length = token_ids.shape[1]
        width = min(_WIDTH, length)

        def body(position, log_probs, cache):
            first = ops.clip(position, 0, length - width)
            window = first[:, None] + ops.arange(width, dtype="int32")
            tokens = ops.take_along_axis(token_ids, window, axis=1)
            logits, _, cache = model.extend_rows(tokens, cache, first)
            following = ops.clip(window + 1, 0, length - 1)
            following = ops.take_along_axis(token_ids, following, axis=1)
            at_following = at_token(
                ops.log_softmax(ops.cast(logits, "float32")), following
            )
            i = columns(token_ids) - window[:, :1] - 1
            here = (i >= 0) & (i < width)
            at_column = ops.take_along_axis(
                at_following, ops.clip(i, 0, width - 1), axis=1
            )
            log_probs = ops.where(here, at_column, log_probs)
            return position + width, log_probs, cache

        log_probs = ops.zeros(ops.shape(token_ids), "float32")
        _, log_probs, cache = while_loop(
            lambda position, *_: ops.any(position < sequences.ends - 1),
            body,
            (start - 1, log_probs, cache),
        )
        return log_probs, cache
