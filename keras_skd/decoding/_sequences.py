"""The sequences of a batch while they are being written."""

from typing import NamedTuple

from keras import KerasTensor
from keras import ops

from keras_skd._source import Source
from keras_skd.decoding._prompts import Prompts
from keras_skd.decoding._prompts import columns


class Sequences(NamedTuple):
    """A batch of sequences, each row at its own length: a loop variable.

    Attributes:
        token_ids: int32 tensor of shape `(batch, sequence_length)`. Entries at
            or after a row's end are not part of it: rejected drafts stay there
            until they are overwritten.
        sources: int32 tensor of the same shape, the `keras_skd.Source` of each
            token.
        ends: int32 tensor of shape `(batch,)`, the number of tokens a row has.
        limits: int32 tensor of shape `(batch,)`, the number of tokens a row
            may have.
        finished: bool tensor of shape `(batch,)`. A row is finished after a
            stop token or at its limit.
    """

    token_ids: KerasTensor
    sources: KerasTensor
    ends: KerasTensor
    limits: KerasTensor
    finished: KerasTensor

    @classmethod
    def start(cls, prompts: Prompts) -> "Sequences":
        """The prompts alone."""
        in_prompt = columns(prompts.token_ids) < prompts.lengths[:, None]
        return cls(
            token_ids=prompts.token_ids,
            sources=ops.cast(in_prompt, "int32") * Source.PROMPT.value,
            ends=prompts.lengths,
            limits=prompts.limits,
            finished=prompts.full,
        )

    def append(self, tokens, source, stop_token_ids, where=True) -> "Sequences":
        """Appends a token to each row that is not finished.

        Args:
            tokens: int32 tensor of shape `(batch,)`.
            source: `Source`, or int tensor of shape `(batch,)`.
            stop_token_ids: tuple of ints.
            where: bool tensor of shape `(batch,)`. Rows to append to. Defaults
                to all.
        """
        where = ops.logical_and(~self.finished, where)
        at_end = (columns(self.token_ids) == self.ends[:, None]) & where[
            :, None
        ]
        source = ops.cast(source, "int32")
        if len(source.shape) == 1:
            source = source[:, None]
        ends = self.ends + ops.cast(where, "int32")
        stopped = where & is_stop(tokens, stop_token_ids)
        return self._replace(
            token_ids=ops.where(at_end, tokens[:, None], self.token_ids),
            sources=ops.where(at_end, source, self.sources),
            ends=ends,
            finished=self.finished | stopped | (ends >= self.limits),
        )

    def advance(self, counts, source, stop_token_ids) -> "Sequences":
        """Appends the tokens that already follow the end of each row.

        Args:
            counts: int32 tensor of shape `(batch,)`, the number of them.
            source: `Source` of these tokens.
            stop_token_ids: tuple of ints. Only the last of the tokens may be
                one of them.
        """
        ends = self.ends + counts
        column = columns(self.token_ids)
        new = (column >= self.ends[:, None]) & (column < ends[:, None])
        last = ops.take_along_axis(self.token_ids, ends[:, None] - 1, axis=1)
        stopped = (counts > 0) & is_stop(last[:, 0], stop_token_ids)
        return self._replace(
            sources=ops.where(new, source.value, self.sources),
            ends=ends,
            finished=self.finished | stopped | (ends >= self.limits),
        )

    def to_rollout(self) -> dict:
        """The tokens, their sources and the masks."""
        return rollout_of(self.token_ids, self.sources)


def rollout_of(token_ids, sources) -> dict:
    """Makes a rollout from tokens and the `Source` of each token."""
    padding_mask = sources != Source.PADDING
    return {
        "token_ids": ops.where(padding_mask, token_ids, 0),
        "padding_mask": padding_mask,
        "response_mask": padding_mask & (sources != Source.PROMPT),
        "sources": sources,
    }


def is_stop(token_ids, stop_token_ids):
    """Whether each token is a stop token."""
    stop = ops.zeros_like(token_ids, dtype="bool")
    for stop_token_id in stop_token_ids or ():
        stop = ops.logical_or(stop, token_ids == stop_token_id)
    return stop


def up_to_first(flags):
    """True up to and including the first True of each row of `flags`."""
    flags = ops.cast(flags, "int32")
    return ops.cumsum(flags, axis=-1) - flags == 0
