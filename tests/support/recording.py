"""Rows that are mostly padding, and how much of them the student reads."""

import contextlib

import numpy as np

from keras_skd._objective import Objective
from tests.support.writing import prompts


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


def uneven_rows():
    """Rows with responses, of prompts that differ for the teacher."""
    ends = np.array([60, 10, 12, 33, 32, 20, 8])
    batch = prompts(ends, 64)
    batch["response_mask"] = batch["padding_mask"].copy()
    batch["response_mask"][:, :5] = 0
    teachers = prompts(ends + 4, 72)
    batch |= {f"teacher_{key}": teachers[key] for key in teachers}
    batch["teacher_padding_mask"][:, 9:] = 0
    return batch
