"""The targets of each position: the logits at t predict the token at t + 1."""

from keras import ops

_KEYS = "token_ids", "padding_mask", "response_mask", "sources"


def next_tokens(rollout):
    """Shifts a rollout by one, from each token to the position predicting it.

    The length stays the same, to match the logits of the whole sequence. The
    last position predicts nothing: its mask is zero.

    Args:
        rollout: dict with tensors of shape `(batch, sequence_length)` at
            `"token_ids"`, `"padding_mask"`, `"response_mask"` and `"sources"`,
            or some of them.

    Returns:
        dict of these tensors, shifted to the left.
    """
    return {
        key: ops.concatenate([x[:, 1:], ops.zeros_like(x[:, :1])], axis=1)
        for key, x in rollout.items()
        if key in _KEYS
    }
