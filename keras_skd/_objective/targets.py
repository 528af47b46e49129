"""What each position predicts: the logits at position t predict token t + 1."""

from keras import ops

_KEYS = "token_ids", "padding_mask", "response_mask", "sources"


def next_tokens(rollout):
    """Shifts a rollout by one, from each token to the position predicting it.

    The length stays the same, so that the targets go with the logits of the
    whole sequence. The last position predicts nothing: it has a mask of zero.

    Args:
        rollout: dict with tensors of shape `(batch, sequence_length)` at
            `"token_ids"`, `"padding_mask"`, `"response_mask"` and `"sources"`,
            or some of them.

    Returns:
        dict of those of them that there are, shifted to the left.
    """
    return {
        key: ops.concatenate([x[:, 1:], ops.zeros_like(x[:, :1])], axis=1)
        for key, x in rollout.items()
        if key in _KEYS
    }
