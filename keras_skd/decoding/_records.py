"""Optional records of the drafts of a speculative rollout.

They are requested while a rollout is traced, so that records that are not
requested cost nothing.
"""

import contextlib
from contextvars import ContextVar

# For each token in place of a tested draft: the draft's position in its turn,
# from 1; and the teacher's rank of the draft, from 1, if it was rejected. Zero
# elsewhere.
DRAFT_POSITIONS = "draft_positions"
REJECTED_RANKS = "rejected_ranks"

_wanted: ContextVar = ContextVar("wanted_records", default=())


def wanted_records() -> tuple:
    """The names of the requested records."""
    return _wanted.get()


@contextlib.contextmanager
def recording(names):
    """A context in which speculative rollouts add records.

    Args:
        names: iterable of the names above. Each record is an int32 tensor of
            the shape of the tokens.
    """
    token = _wanted.set(tuple(sorted(names)))
    try:
        yield
    finally:
        _wanted.reset(token)
