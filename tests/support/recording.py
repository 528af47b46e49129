"""What the student reads."""

import contextlib

from keras_skd._objective import Objective


@contextlib.contextmanager
def recorded_widths(monkeypatch):
    """A list of the widths that the student reads, or compiles, meanwhile."""
    read, widths = Objective.read_student, []

    def record(self, token_ids, padding_mask, training=False):
        widths.append(token_ids.shape[1])
        return read(self, token_ids, padding_mask, training)

    with monkeypatch.context() as patched:
        patched.setattr(Objective, "read_student", record)
        yield widths
