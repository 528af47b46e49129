"""A teacher that sees another prompt than the student.

The response is one, and stands further on in the teacher's sequences than in
the student's, by a number of tokens that differs from row to row.
"""

from keras import ops

from keras_skd.decoding._sequences import Prompts
from keras_skd.decoding._sequences import columns

KEYS = "teacher_token_ids", "teacher_padding_mask"


class TeacherView:
    """The student's sequences as the teacher sees them.

    Args:
        batch: dict of the student's `"token_ids"`, `"padding_mask"` and maybe
            `"response_mask"`, of shape `(batch, sequence_length)`, and of the
            teacher's own prompts, `"teacher_token_ids"` and
            `"teacher_padding_mask"`, of shape
            `(batch, teacher_sequence_length)`.

    Attributes:
        prompts: `Prompts` of the teacher, with room for the same responses.
        offset: int32 tensor of shape `(batch,)`, from the student's positions
            to the teacher's.
    """

    def __init__(self, batch):
        student = Prompts(batch)
        prompts = {
            "token_ids": batch["teacher_token_ids"],
            "padding_mask": batch["teacher_padding_mask"],
        }
        self.sequence_length = student.sequence_length
        self.offset = Prompts(prompts).lengths - student.lengths
        # A row that is full has to be full for the teacher, too.
        self.prompts = Prompts(prompts, limits=student.limits + self.offset)
        self.student_prompts = student

    def sequences(self, token_ids, padding_mask):
        """The teacher's prompts with the student's responses.

        Returns:
            `(token_ids, padding_mask)`, of shape
            `(batch, teacher_sequence_length)`.
        """
        column = columns(self.prompts.token_ids)
        in_prompt = column < self.prompts.lengths[:, None]
        index = ops.clip(
            column - self.offset[:, None], 0, self.sequence_length - 1
        )
        end = ops.sum(ops.cast(padding_mask, "int32"), axis=1) + self.offset
        return (
            ops.where(
                in_prompt,
                self.prompts.token_ids,
                ops.take_along_axis(token_ids, index, axis=1),
            ),
            column < end[:, None],
        )

    def back(self, values):
        """From the teacher's positions to the student's.

        Args:
            values: tensor of shape `(batch, teacher_sequence_length, ...)`.

        Returns:
            Tensor of shape `(batch, sequence_length, ...)`; where the prompts
            stand, it is of no meaning.
        """
        index = ops.arange(self.sequence_length) + self.offset[:, None]
        index = ops.clip(index, 0, values.shape[1] - 1)
        rest = (1,) * (len(values.shape) - 2)
        index = ops.reshape(index, (-1, self.sequence_length, *rest))
        return ops.take_along_axis(values, index, axis=1)
