"""The accept phase against ten lines of Python, for every row of masks."""

import itertools

import numpy as np
from keras import ops

from keras_skd.decoding._speculation import accept

WIDTH = 4


def accept_row(tested, accepted, stops):
    """One row's turn, position by position."""
    kept, rejected = [False] * WIDTH, [False] * WIDTH
    for i in range(WIDTH):
        if not tested[i]:
            continue
        if not accepted[i]:
            rejected[i] = True
            break
        kept[i] = True
        if stops[i]:
            break
    return kept, rejected


def test_every_row_of_masks():
    rows = list(itertools.product([False, True], repeat=WIDTH))
    table = list(itertools.product(rows, rows, rows))
    expected = np.array([accept_row(*row) for row in table])
    masks = np.array(table).transpose(1, 0, 2)
    actual = accept(*(ops.convert_to_tensor(mask) for mask in masks))
    assert len(table) == 4096
    for i in range(2):
        np.testing.assert_array_equal(
            ops.convert_to_numpy(actual[i]), expected[:, i]
        )
    # At most one position of a row is rejected.
    assert expected[:, 1].sum(axis=1).max() == 1
