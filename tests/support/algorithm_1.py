"""Algorithm 1 of the SKD paper, in slow and plain code.

No cache, no blocks, no vectorisation: every token is a forward pass of both
models over whole sequences, and everything else is Python.
"""

import numpy as np

from keras_skd import Source


def write_greedily(student, teacher, k, batch, stop_token_ids=()):
    """Greedy student, greedy teacher, top-`k` acceptance.

    Args:
        student, teacher: functions from token ids to logits. A model that never
            writes (at `k` of 0 or the vocabulary size) may be `None`.
        k: int. The teacher accepts drafts among its `k` likeliest tokens.
        batch: dict of `"token_ids"` and `"padding_mask"`.
        stop_token_ids: tuple of ints.

    Returns:
        `(token_ids, sources, margin)`. The margin is the smallest difference
        of logits that decided anything: if it is far above rounding errors, a
        different implementation must write the same.
    """
    token_ids = batch["token_ids"].copy()
    lengths = batch["padding_mask"].sum(axis=1)
    written = np.where(batch["padding_mask"], Source.PROMPT, Source.PADDING)
    finished = np.zeros(len(token_ids), "bool")
    margin = np.inf
    for column in range(1, token_ids.shape[1]):
        if np.all(finished | (column < lengths)):
            continue
        student_logits = (student or teacher)(token_ids)[:, column - 1]
        teacher_logits = (teacher or student)(token_ids)[:, column - 1]
        for row in range(len(token_ids)):
            if column < lengths[row] or finished[row]:
                continue
            p, q = student_logits[row], teacher_logits[row]
            token, source = int(np.argmax(p)), Source.STUDENT
            ranking = np.argsort(-q, kind="stable")
            margin = min(margin, np.diff(np.sort(p)[-2:])[0])
            if 0 < k < len(q):
                margin = min(margin, q[ranking[k - 1]] - q[ranking[k]])
            if token not in ranking[:k]:
                token, source = int(np.argmax(q)), Source.TEACHER
                margin = min(margin, q[ranking[0]] - q[ranking[1]])
            token_ids[row, column] = token
            written[row, column] = source
            finished[row] = token in stop_token_ids
    return token_ids, written, margin
