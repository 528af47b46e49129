"""The switch for debugging, `distiller.compile(run_eagerly=True)`."""

import contextlib
from contextvars import ContextVar

_is_eager = ContextVar("is_eager", default=False)


def is_eager() -> bool:
    """Whether rollouts run in Python: no compilation, no replay, no vmap."""
    return _is_eager.get()


@contextlib.contextmanager
def eager_scope(run_eagerly: bool):
    token = _is_eager.set(run_eagerly)
    try:
        yield
    finally:
        _is_eager.reset(token)
