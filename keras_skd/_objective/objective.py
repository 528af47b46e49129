import warnings

from keras_skd import losses
from keras_skd._checks import check_integer
from keras_skd._objective.chunked_loss import ChunkedLoss
from keras_skd._objective.targets import next_tokens
from keras_skd.decoding._prompts import has_teacher_prompts
from keras_skd.decoding._prompts import teacher_sequences
from keras_skd.decoding._prompts import to_student_positions


class Objective:
    """The loss of a student on a rollout, read by both models.

    The arguments are those of `Distiller.compile`, and are checked before
    anything is kept.

    Args:
        loss: a `keras_skd.losses.DistillationLoss`, its name or its config.
        hidden_state_loss: a `keras_skd.losses.HiddenStateL1` or `None`.
        teacher, student: `CachedCausalLM`s.
        chunk_size: int or `None`. See `ChunkedLoss`.

    Call arguments:
        outputs: dict, as `read_student()` returns it.
        rollout: dict of tensors of shape `(batch, sequence_length)`.
        training_step: int tensor, the number of batches trained on.
        training: bool. Whether there will be a backward pass.

    Returns:
        The loss, a scalar.
    """

    def __init__(
        self, loss, hidden_state_loss, teacher, student, chunk_size=None
    ):
        loss = losses.get(loss)
        if loss.reduction in ("none", None):
            raise ValueError(
                "`loss` must be reduced to a number to train on. Received: "
                f"{loss.name} with `reduction={loss.reduction!r}`"
            )
        if chunk_size is not None:
            chunk_size = check_integer("loss_chunk_size", chunk_size, 1)
        layers = (), ()
        if hidden_state_loss is not None:
            if not isinstance(hidden_state_loss, losses.HiddenStateL1):
                raise TypeError(
                    "`hidden_state_loss` must be a "
                    "`keras_skd.losses.HiddenStateL1` or `None`. Received: "
                    f"{hidden_state_loss!r}"
                )
            layers = hidden_state_loss.outputs(
                teacher.model.backbone, student.model.backbone
            )
        self.loss = loss
        self.chunk_size = chunk_size
        self.hidden_state_loss = hidden_state_loss
        self._read_teacher = _reader(teacher, layers[0])
        self._read_student = _reader(student, layers[1])
        self._chunked_loss = ChunkedLoss(loss, teacher, student, chunk_size)

    def read_student(self, token_ids, padding_mask, training=False):
        """The student's forward pass, up to its head.

        Returns:
            dict of the final `"hidden_states"` and, for a `hidden_state_loss`,
            of the list of hidden states that it compares, `"layers"`.
        """
        hidden_states, *layers = self._read_student(
            token_ids, padding_mask, training=training
        )
        outputs = {"hidden_states": hidden_states}
        if self.hidden_state_loss is not None:
            outputs["layers"] = layers
        return outputs

    def __call__(self, outputs, rollout, training_step=0, training=True):
        teacher_hidden_states, *layers = self._teacher_states(rollout)
        loss = self._chunked_loss(
            outputs["hidden_states"],
            teacher_hidden_states,
            rollout,
            training_step,
            training,
        )
        if self.hidden_state_loss is not None:
            mask = next_tokens(rollout)["response_mask"]
            loss = loss + self.hidden_state_loss(
                layers, outputs["layers"], mask
            )
        return loss

    def batch_weight(self, rollout):
        """The weight of a rollout's loss in the mean over several rollouts."""
        return self.loss.batch_weight(next_tokens(rollout)["response_mask"])

    def check_accumulation(self, optimizer):
        """Warns if Keras accumulates other gradients than a large batch has."""
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        reduction = self.loss.reduction
        if (
            optimizer.gradient_accumulation_steps
            and reduction != "sequence_mean"
        ):
            warnings.warn(
                "`gradient_accumulation_steps` averages the gradients of "
                "batches with equal weights, which is not the gradient of one "
                f"large batch with `reduction={reduction!r}`. It is with "
                "`reduction='sequence_mean'`.",
                stacklevel=3,
            )

    def _teacher_states(self, rollout):
        """The teacher's final hidden states, and those of the layers."""
        if self.hidden_state_loss is None:
            # After speculation, the teacher has read everything already.
            known = rollout.get("teacher_hidden_states")
            if known is not None or not self.loss.needs_teacher:
                return [known]
        if not has_teacher_prompts(rollout):
            return self._read_teacher(
                rollout["token_ids"], rollout["padding_mask"]
            )
        token_ids, padding_mask, offsets = teacher_sequences(rollout)
        sequence_length = rollout["token_ids"].shape[1]
        return [
            to_student_positions(states, offsets, sequence_length)
            for states in self._read_teacher(token_ids, padding_mask)
        ]


def _reader(model, layers):
    """A forward pass to the final hidden states and those of some layers."""
    if layers:
        return model.layer_reader(layers)
    return lambda *args, **kwargs: [model.hidden_states(*args, **kwargs)]
