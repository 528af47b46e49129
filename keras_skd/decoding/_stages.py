"""The lengths that a cache grows through while responses are written.

Attention runs over the whole cache, including its unused end. So caches start
short, and grow when a row reaches their end. A decoding loop is compiled for
each length: where rows are short, it pays to compile the first one alone.
"""

from contextvars import ContextVar

from keras_skd.decoding._prompts import length_of_longest

_SHORTEST = 128


class ShortCaches:
    """A context in which rows are written as far as a short cache goes.

    A row that does not fit is left unfinished, and nothing in the result says
    so. Up to there, the same random numbers are drawn as without the context.

    Args:
        length: int. The length of the cache.

    Attributes:
        are_used: bool. Whether anything asked for a longer one.
    """

    def __init__(self, length):
        self.length = length
        self.are_used = False

    def __enter__(self):
        self._token = _short.set(self)
        return self

    def __exit__(self, *args):
        _short.reset(self._token)


_short: ContextVar[ShortCaches | None] = ContextVar("short", default=None)


def cache_stages(sequence_length) -> list:
    """The lengths, each with the one before it.

    Returns:
        List of pairs `(previous, length)`, the first from 0, the last to
        `sequence_length`, or to that of surrounding `ShortCaches`.
    """
    short = _short.get()
    if short is not None and short.length < sequence_length:
        short.are_used = True
        sequence_length = short.length
    lengths, length = [0], _SHORTEST
    while length < sequence_length:
        lengths.append(length)
        length *= 4
    lengths.append(sequence_length)
    return list(zip(lengths, lengths[1:]))


class ShortFirst:
    """Runs a rollout with short caches, for as long as they are enough.

    A decoding loop is compiled for each length of the caches. Where all rows
    end early, those for the long ones never are. The first batch with a row
    that does not fit is written again, by the loops for all lengths, which are
    used from then on.

    Args:
        run: callable from a batch, `ShortCaches` or `None` for whole ones, and
            further arguments, to a written batch and something else. It is
            compiled for each of the `ShortCaches`, and changes nothing.
        longest_draft: int. The most tokens of a draft.

    Call arguments:
        batch: dict of tensors, whose values are known.
        args: further arguments.

    Returns:
        As `run`.
    """

    def __init__(self, run, longest_draft):
        self._run = run
        self._longest_draft = longest_draft
        self._short = {}  # By length.
        self._is_enough = True

    def __call__(self, batch, *args):
        short = self._short_caches(batch)
        if short is not None:
            result = self._run(batch, short, *args)
            longest = length_of_longest(result[0]) + self._longest_draft
            if longest <= short.length or not short.are_used:
                return result
            self._is_enough = False
        return self._run(batch, None, *args)

    def _short_caches(self, batch):
        lengths = [n for _, n in cache_stages(batch["token_ids"].shape[1])]
        if len(lengths) == 1 or not self._is_enough:
            return None
        # Prompts, and the responses of the data.
        longest = length_of_longest(batch)
        for length in lengths[:-1]:
            if longest < length:
                return self._short.setdefault(length, ShortCaches(length))
        return None
