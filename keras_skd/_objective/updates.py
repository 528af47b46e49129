"""The parts of a batch that each make an update."""

from keras import ops

# The number of updates between the writing of a row and its own.
AGE = "updates_since_rollout"


def split(batch, size) -> list:
    """Splits a written batch into parts of `size` rows. The last may be less.

    Not for compiled functions.
    """
    num_rows = batch["token_ids"].shape[0]
    parts = []
    for age, start in enumerate(range(0, num_rows, size)):
        part = {key: x[start : start + size] for key, x in batch.items()}
        rows = part["token_ids"].shape[0]
        parts.append({**part, AGE: ops.full((rows,), age, dtype="int32")})
    return parts
