"""Checks of token ids from the user or from a tokenizer."""

import numpy as np

from keras_skd._preprocessing.column_names import TOKEN_KEYS


def check_token_ids(batch, gaps=False):
    """Checks the columns of token ids, and casts them.

    Args:
        batch: dict of NumPy arrays with the keys of `TOKEN_KEYS`.
        gaps: bool. Whether there may be tokens of others between those of a
            response.

    Returns:
        dict of arrays: token ids are int32, masks bool.
    """
    _check_arrays(batch)
    batch = {
        key: value.astype("bool" if key.endswith("_mask") else "int32")
        for key, value in batch.items()
    }
    for key in ("padding_mask", "teacher_padding_mask"):
        mask = batch.get(key, batch["padding_mask"])
        row = _first((~mask[:, :-1] & mask[:, 1:]).any(axis=1))
        if row is not None:
            raise ValueError(
                f'"{key}" must be right-padded, ones and then zeros. Received '
                f"in row {row}: {mask[row].astype(int)}"
            )
    if not gaps:
        _check_response_mask(batch)
    return batch


def prompt_lengths(batch):
    """The number of tokens before the response in each row."""
    mask = batch["padding_mask"]
    response = batch.get("response_mask", np.zeros_like(mask))
    return (mask & ~np.logical_or.accumulate(response, axis=1)).sum(1)


def _check_arrays(batch):
    theirs = TOKEN_KEYS[3:]
    if {*theirs} & {*batch} and not {*theirs} <= {*batch}:
        raise ValueError(
            f"The teacher's own prompts need both of {list(theirs)}. Received "
            f"the keys: {sorted(batch)}."
        )
    shape = batch["token_ids"].shape
    for key, value in batch.items():
        if value.dtype.kind not in "iub":
            raise TypeError(
                f'"{key}" must be integers or booleans. Received dtype: '
                f"{value.dtype}. To pass strings, give the `Distiller` a "
                "`preprocessor`."
            )
        expected = shape
        if key in theirs:
            expected = (*shape[:1], *batch["teacher_token_ids"].shape[1:])
        if value.ndim != 2 or value.shape != expected:
            like = key.replace("padding_mask", "token_ids")
            raise ValueError(
                f'"{key}" must have the shape (batch, sequence_length) of '
                f'"{like}". Received: {value.shape}, where {expected} was '
                "expected."
            )
    if shape[0] == 0:
        raise ValueError('"token_ids" has no rows. Received: no data.')


def _check_response_mask(batch):
    mask = batch["padding_mask"]
    response = mask & batch.get("response_mask", np.zeros_like(mask))
    prompt = mask & ~response
    row = _first((response[:, :-1] & prompt[:, 1:]).any(axis=1))
    if row is not None:
        raise ValueError(
            '"response_mask" must mark a response that follows its prompt and '
            'ends the row, except with `Distiller(rollout="supervised", '
            f'assistant_turns="all")`. Received in row {row}: '
            f'{response[row].astype(int)}, where "padding_mask" is '
            f"{mask[row].astype(int)}"
        )


def check_vocabulary(token_ids, padding_mask, vocabulary_size, key, hint=""):
    """Checks that all ids exist. Not every backend does so itself.

    The ids in the padding do not matter.
    """
    unknown = (token_ids < 0) | (token_ids >= vocabulary_size)
    unknown &= padding_mask
    if unknown.any():
        row, column = np.argwhere(unknown)[0]
        raise ValueError(
            f'"{key}" must be in the vocabulary of {vocabulary_size} tokens. '
            f"Received in row {row}: the id {token_ids[row, column]}.{hint}"
        )


def _first(found):
    """The index of the first true row, or `None`."""
    return int(np.argmax(found)) if found.any() else None
