"""What speculation notes of its drafts, where somebody asks for it.

It is decided while a rollout is traced: what nobody asks for is not computed.
"""

import contextlib
from contextvars import ContextVar

# Of each token that a draft was tested for: the draft's position in its turn,
# from 1; and where the draft was rejected, its rank for the teacher, from 1.
# Zero elsewhere.
DRAFT_POSITIONS = "draft_positions"
REJECTED_RANKS = "rejected_ranks"

_wanted: ContextVar = ContextVar("wanted_records", default=())


def wanted_records() -> tuple:
    """The names of the records that a rollout should add."""
    return _wanted.get()


@contextlib.contextmanager
def recording(names):
    """Has speculative rollouts add records, int32 of the shape of tokens."""
    token = _wanted.set(tuple(sorted(names)))
    try:
        yield
    finally:
        _wanted.reset(token)
