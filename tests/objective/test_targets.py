import numpy as np
from keras import ops

from keras_skd._objective.flat_positions import FlatPositions
from keras_skd._objective.targets import next_tokens


def test_next_tokens():
    batch = {
        "token_ids": np.array([[5, 6, 7], [8, 9, 0]], "int32"),
        "response_mask": np.array([[0, 0, 1], [0, 1, 0]], "bool"),
        "teacher_hidden_states": np.zeros((2, 3, 4), "float32"),
    }
    batch = {key: ops.convert_to_tensor(x) for key, x in batch.items()}
    targets = next_tokens(batch)
    assert set(targets) == {"token_ids", "response_mask"}
    for key, expected in (
        ("token_ids", [[6, 7, 0], [9, 0, 0]]),
        ("response_mask", [[False, True, False], [True, False, False]]),
    ):
        assert targets[key].dtype == batch[key].dtype
        np.testing.assert_array_equal(
            ops.convert_to_numpy(targets[key]), expected
        )


def test_flat_positions():
    mask = np.array([[0, 1, 0], [1, 0, 1]], "bool")
    x = np.arange(12, dtype="float32").reshape(2, 3, 2)
    positions = FlatPositions(ops.convert_to_tensor(mask), chunk_size=4)
    flat = positions.flatten({"x": ops.convert_to_tensor(x), "none": None})
    assert flat["none"] is None
    # Six positions fill two chunks, three of them are of a response.
    assert flat["x"].shape == (8, 2)
    assert int(positions.num_responses) == 3
    first = ops.convert_to_numpy(positions.chunk(flat["x"], 0))
    assert sorted(first[:3, 0]) == sorted(x[mask][:, 0])
    np.testing.assert_array_equal(
        ops.convert_to_numpy(flat["x"])[6:], np.zeros((2, 2))
    )
    np.testing.assert_array_equal(
        ops.convert_to_numpy(positions.unflatten(flat["x"][:, 1])), x[..., 1]
    )
