"""The prompts of a batch, the student's and the teacher's.

The teacher may have prompts of its own. Both models share the response; in the
teacher's sequence it is shifted by a per-row offset.
"""

from keras import ops

TEACHER_KEYS = "teacher_token_ids", "teacher_padding_mask"


def columns(token_ids):
    """Column numbers of shape `(1, sequence_length)`."""
    return ops.arange(token_ids.shape[1], dtype="int32")[None]


class Prompts:
    """Prompts, padded with zeros, and their lengths.

    Args:
        batch: dict of `"token_ids"`, `"padding_mask"` and maybe
            `"response_mask"`, each of shape `(batch, sequence_length)`, and
            maybe the teacher's own prompts, `"teacher_token_ids"` and
            `"teacher_padding_mask"`, of shape
            `(batch, teacher_sequence_length)`.

    Attributes:
        token_ids: int32 tensor of shape `(batch, sequence_length)`.
        lengths: int32 tensor of shape `(batch,)`.
        limits: int32 tensor of shape `(batch,)`, the largest number of tokens
            of each row.
        full: bool tensor of shape `(batch,)`. Whether a row has no room for a
            response, so that nothing is written in it.
        longest: int32 scalar, the length of the longest prompt that is not
            full.
        teacher: the `Prompts` that the teacher reads, with room for the same
            responses: this object, unless the teacher has its own.
        offsets: int32 tensor of shape `(batch,)`, from a token's position in
            the student's sequence to its position in the teacher's.
    """

    def __init__(self, batch: dict):
        lengths = prompt_lengths(batch)
        sequence_length = batch["token_ids"].shape[1]
        # Always `sequence_length`, but computed from the data: TensorFlow 2.21
        # fails to compile a constant that is passed through three loops.
        limits = ops.maximum(lengths, ops.full_like(lengths, sequence_length))
        self._set(batch["token_ids"], lengths, limits)
        self.teacher = self
        self.offsets = ops.zeros_like(lengths)
        if has_teacher_prompts(batch):
            token_ids, padding_mask = (batch[key] for key in TEACHER_KEYS)
            lengths = _num_tokens(padding_mask)
            self.offsets = lengths - self.lengths
            self.teacher = object.__new__(Prompts)
            # A row is full for both models or for neither.
            self.teacher._set(token_ids, lengths, limits + self.offsets)

    def take(self, index) -> "Prompts":
        """The prompts of some rows, without their `offsets`."""
        prompts = self._take(index)
        prompts.teacher = prompts
        if self.teacher is not self:
            prompts.teacher = self.teacher._take(index)
        return prompts

    def _take(self, index):
        prompts = object.__new__(Prompts)
        rows = self.token_ids, self.lengths, self.limits
        prompts._set(*(ops.take(x, index, axis=0) for x in rows))
        return prompts

    def _set(self, token_ids, lengths, limits):
        in_prompt = columns(token_ids) < lengths[:, None]
        self.token_ids = ops.where(in_prompt, ops.cast(token_ids, "int32"), 0)
        self.batch_size = ops.shape(token_ids)[0]
        self.sequence_length = token_ids.shape[1]
        self.lengths = lengths
        self.limits = limits
        self.full = lengths >= limits
        self.longest = ops.max(ops.where(self.full, 1, lengths))


def has_teacher_prompts(batch: dict) -> bool:
    """Whether the teacher reads prompts of its own."""
    return TEACHER_KEYS[0] in batch


def prompt_lengths(batch: dict):
    """The number of tokens before the response, of shape `(batch,)`."""
    is_prompt = ops.cast(batch["padding_mask"], "bool")
    if "response_mask" in batch:
        is_prompt = is_prompt & ~ops.cast(batch["response_mask"], "bool")
    return _num_tokens(is_prompt)


def teacher_sequences(rollout: dict):
    """The sequences of a rollout as the teacher reads them.

    Args:
        rollout: dict of a rollout, with the teacher's prompts.

    Returns:
        `(token_ids, padding_mask, offsets)`: the teacher's prompts followed by
        the responses, of shape `(batch, teacher_sequence_length)`, and the
        offsets of `Prompts`.
    """
    prompt_ids, padding_mask = (rollout[key] for key in TEACHER_KEYS)
    teacher_lengths = _num_tokens(padding_mask)
    offsets = teacher_lengths - prompt_lengths(rollout)
    column = columns(prompt_ids)
    index = column - offsets[:, None]
    index = ops.clip(index, 0, rollout["token_ids"].shape[1] - 1)
    token_ids = ops.where(
        column < teacher_lengths[:, None],
        ops.cast(prompt_ids, "int32"),
        ops.take_along_axis(rollout["token_ids"], index, axis=1),
    )
    ends = _num_tokens(rollout["padding_mask"]) + offsets
    return token_ids, column < ends[:, None], offsets


def to_student_positions(values, offsets, sequence_length: int):
    """Moves values from the teacher's positions to the student's.

    Args:
        values: tensor of shape `(batch, teacher_sequence_length, ...)`.
        offsets: int32 tensor of shape `(batch,)`, as of `Prompts`.
        sequence_length: int, the length of the student's sequences.

    Returns:
        Tensor of shape `(batch, sequence_length, ...)`. Its values at the
        positions of the prompts, which differ, are meaningless.
    """
    index = ops.arange(sequence_length, dtype="int32") + offsets[:, None]
    index = ops.clip(index, 0, values.shape[1] - 1)
    rest = (1,) * (len(values.shape) - 2)
    index = ops.reshape(index, (-1, sequence_length, *rest))
    return ops.take_along_axis(values, index, axis=1)


def length_of_longest(batch: dict) -> int:
    """The number of tokens of the longest row.

    Not for compiled functions, where the values of tensors are not known.
    """
    return int(ops.max(_num_tokens(batch["padding_mask"])))


def _num_tokens(mask):
    return ops.sum(ops.cast(mask, "int32"), axis=1)
