import warnings

import numpy as np
from keras import ops

from keras_skd import losses
from keras_skd._checks import check_integer
from keras_skd._log_space import at_token
from keras_skd._log_space import rank_of
from keras_skd._objective.chunked_loss import ChunkedLoss
from keras_skd._objective.targets import next_tokens
from keras_skd.decoding._prompts import has_teacher_prompts
from keras_skd.decoding._prompts import teacher_sequences
from keras_skd.decoding._prompts import to_student_positions


class Objective:
    """The loss of a student on a rollout.

    Args:
        loss: a `keras_skd.losses.DistillationLoss`, its name or its config.
            Defaults to `None`: forward KL, or cross-entropy without a teacher.
        hidden_state_loss: a `keras_skd.losses.HiddenStateL1` or `None`.
        teacher: a `CachedCausalLM`, or `None` for none.
        student: a `CachedCausalLM`.
        chunk_size: int or `None`. See `ChunkedLoss`.
        with_parts: bool. Whether to measure the parts of the loss.
        with_kl: bool. Whether to measure the forward KL by author.

    Call arguments:
        outputs: dict, as `read_student()` returns it.
        rollout: dict of tensors of shape `(batch, sequence_length)`.
        training_step: int tensor, the number of batches trained on.
        training: bool. Whether there will be a backward pass.

    Returns:
        `(loss, measured)`, a scalar and a dict of what is measured beside it:
        `"mean_kl"`, the loss of `losses.ForwardKL()` whatever the loss is,
        except in training and without a teacher; and what
        `ChunkedLoss.measure` returns, if it is asked for.

    Attributes:
        part_names: list of strings, the names of the parts of the loss.
    """

    def __init__(
        self,
        loss,
        hidden_state_loss,
        teacher,
        student,
        chunk_size=None,
        with_parts=False,
        with_kl=False,
    ):
        if loss is None:
            loss = "cross_entropy" if teacher is None else "forward_kl"
        loss = losses.get(loss)
        if loss.reduction in ("none", None):
            raise ValueError(
                "`loss` must be reduced to a number to train on. Received: "
                f"{loss.name} with `reduction={loss.reduction!r}`"
            )
        if teacher is None and (
            loss.needs_teacher or hidden_state_loss or with_kl
        ):
            raise ValueError(
                "Without a teacher, the loss can only be of the tokens: "
                "`loss='cross_entropy'`, no `hidden_state_loss` and no KL in "
                f"`rollout_metrics`. Received: loss={loss!r}, "
                f"hidden_state_loss={hidden_state_loss!r}"
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
        self._mean_kl: ChunkedLoss | None = None
        if teacher is not None:
            kl = losses.ForwardKL()
            self._mean_kl = ChunkedLoss(kl, teacher, student, chunk_size)
            # Both heads need not be computed twice for the same number.
            if losses.serialize(loss) == losses.serialize(kl):
                self._mean_kl = self._chunked_loss
        self._with_parts = with_parts
        self._with_kl = with_kl
        self._teacher = teacher
        self.part_names = list(loss.part_names)
        if hidden_state_loss is not None:
            self.part_names.append("hidden_state")

    def read_student(self, token_ids, padding_mask, training=False):
        """The student's forward pass, up to its head.

        Returns:
            dict of the final `"hidden_states"` and, for a `hidden_state_loss`,
            `"layers"`, the list of hidden states that it compares.
        """
        hidden_states, *layers = self._read_student(
            token_ids, padding_mask, training=training
        )
        outputs = {"hidden_states": hidden_states}
        if self.hidden_state_loss is not None:
            outputs["layers"] = layers
        return outputs

    def __call__(self, outputs, rollout, training_step=0, training=True):
        mean_kl = None if training else self._mean_kl
        teacher_hidden_states, *layers = self._teacher_states(
            rollout,
            needed=self.loss.needs_teacher or self._with_kl or bool(mean_kl),
        )
        states = outputs["hidden_states"], teacher_hidden_states
        loss = self._chunked_loss(*states, rollout, training_step, training)
        measured = {}
        if mean_kl is not None:
            measured["mean_kl"] = loss
            if mean_kl is not self._chunked_loss:
                measured["mean_kl"] = mean_kl(*states, rollout, training=False)
        additional = []
        if self.hidden_state_loss is not None:
            mask = next_tokens(rollout)["response_mask"]
            additional = [
                self.hidden_state_loss(layers, outputs["layers"], mask)
            ]
        if self._with_parts or self._with_kl:
            measured |= self._chunked_loss.measure(
                *states,
                rollout,
                training_step,
                self._with_parts,
                self._with_kl,
            )
        if additional and self._with_parts:
            measured["parts"] = ops.concatenate(
                [measured["parts"], ops.stack(additional)]
            )
        return sum(additional, start=loss), measured

    def batch_weight(self, rollout):
        """The weight of a rollout's loss in the mean over several rollouts."""
        return self.loss.batch_weight(next_tokens(rollout)["response_mask"])

    def check_accumulation(self, optimizer):
        """Warns if accumulated gradients differ from those of a large batch."""
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

    def teacher_scores(self, rollout) -> dict:
        """How likely each token of the responses is for the teacher.

        Args:
            rollout: dict of tensors, what a rollout has written.

        Returns:
            dict of NumPy arrays of shape `(batch, sequence_length)`:
            `"teacher_ranks"` (int32, from 1) and `"teacher_probabilities"`
            (float32), zero outside of the responses.
        """
        states = self._teacher_states(rollout, needed=True)[0]
        mask = ops.convert_to_numpy(rollout["response_mask"])
        ranks = np.zeros(mask.shape, "int32")
        probabilities = np.zeros(mask.shape, "float32")
        # A row at a time: the logits of a batch may not fit into memory.
        for row, response in enumerate(mask):
            logits = ops.cast(self._teacher.logits(states[row]), "float32")
            token_ids = rollout["token_ids"][row, 1:]
            log_probs = at_token(ops.log_softmax(logits[:-1]), token_ids)
            ranks[row, 1:] = ops.convert_to_numpy(
                rank_of(logits[:-1], token_ids)
            )
            probabilities[row, 1:] = ops.convert_to_numpy(ops.exp(log_probs))
            ranks[row, ~response] = probabilities[row, ~response] = 0
        return {
            "teacher_ranks": ranks,
            "teacher_probabilities": probabilities,
        }

    def _teacher_states(self, rollout, needed):
        """The teacher's final hidden states, and those of the layers.

        The first may be `None` unless it is needed.
        """
        if self.hidden_state_loss is None:
            # After speculation, the teacher has already read the rollout.
            known = rollout.get("teacher_hidden_states")
            if known is not None or not needed:
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
