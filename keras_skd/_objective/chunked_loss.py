"""Losses from hidden states, without the logits of the whole batch.

Logits are by far the largest tensors in distillation: at a vocabulary of
262,144, those of 512 positions take half a gigabyte, and a loss needs several
of that size. Here both models' hidden states are projected to logits a few
positions at a time, and the gradient of these positions is taken at once, so
that nothing has to be kept or computed again for the backward pass. The
positions of the responses come first in line, and the line ends with them.
"""

import math

import keras
from keras import ops
from keras import tree

from keras_skd._backend import scale_in_place
from keras_skd._backend import value_and_gradients
from keras_skd.decoding._control_flow import while_loop

# Large enough for a matrix product to be efficient, and small beside a model.
_LOGITS_PER_CHUNK = 2**23

# More at once are no faster, and the last chunk is filled up to its size.
_POSITIONS_PER_CHUNK = 256


class ChunkedLoss:
    """A distillation loss of hidden states, with a loop over the positions.

    Args:
        loss: a `keras_skd.losses.DistillationLoss`.
        teacher, student: `CachedCausalLM`s, for their heads.
        chunk_size: int. How many positions are projected to logits at once.
            Defaults to `None`: 256, or the largest power of two that is not
            more than 8 million logits.

    Call arguments:
        student_hidden_states: tensor of shape `(batch, length, hidden_dim)`.
        teacher_hidden_states: the teacher's, or `None` if the loss does not
            need them.
        rollout: dict of what was written, of shape `(batch, length)`.
        training_step: int tensor, the number of batches trained on.
        training: bool. Whether there will be a backward pass.

    Returns:
        The loss, a scalar.
    """

    def __init__(self, loss, teacher, student, chunk_size=None):
        self.loss = loss
        self.teacher = teacher
        self.student = student
        self.chunk_size = chunk_size
        self._variables = teacher.head_variables + student.head_variables
        self._weights = [v for v in student.head_variables if v.trainable]

    def __call__(
        self,
        student_hidden_states,
        teacher_hidden_states,
        rollout,
        training_step=0,
        training=True,
    ):
        with self._head_scope():
            return self._loss(
                student_hidden_states,
                teacher_hidden_states,
                rollout,
                training_step,
                training,
            )

    def _loss(
        self,
        student_hidden_states,
        teacher_hidden_states,
        rollout,
        training_step,
        training,
    ):
        # Logits at position t predict the token at t + 1.
        mask = rollout["response_mask"][:, 1:]
        token_ids = rollout["token_ids"][:, 1:]
        sources = rollout["sources"][:, 1:]
        line = _Line(mask, self._chunk_size(mask))
        # What is constant goes along in one structure, cut like the states.
        targets = {
            "teacher": teacher_hidden_states[:, :-1]
            if self.loss.needs_teacher
            else None,
            "token_ids": token_ids,
            "sources": sources,
            "weights": self.loss.position_weights(mask),
        }
        targets = line.form(targets)
        states = line.form(student_hidden_states[:, :-1])
        log_probs = {}
        if self.loss.needs_token_log_probs:
            log_probs = self._token_log_probs(states, targets, line)
        context = self.loss.prepare(mask, sources, training_step, **log_probs)
        targets["context"] = line.form(context)
        targets = tree.map_structure(_stop_gradient, targets)
        if not training:
            return self._sum(states, targets, line)
        weights = [v.value for v in self._weights]
        return self._differentiable_sum(targets, line)(states, *weights)

    def _chunk_size(self, mask):
        size = self.chunk_size
        if size is None:
            size = _LOGITS_PER_CHUNK // self.student.vocabulary_size
            # Matrix products take no longer for all of a power of two.
            size = 2 ** int(math.log2(max(1, size)))
            size = min(size, _POSITIONS_PER_CHUNK)
        # The batch size may be unknown, on TensorFlow.
        if None not in mask.shape:
            size = min(size, math.prod(mask.shape))
        return size

    def _chunk_value(self, states, targets):
        """The sum of the weighted losses of a few positions."""
        values = self.loss.position_values(
            self.teacher.logits(targets["teacher"])
            if self.loss.needs_teacher
            else None,
            self.student.logits(states),
            token_ids=targets["token_ids"],
            sources=targets["sources"],
            context=targets["context"],
        )
        weights = targets["weights"]
        # Not a product alone: zero times infinity is not a number.
        return ops.sum(ops.where(weights == 0, 0.0, values) * weights)

    def _sum(self, states, targets, line):
        def body(start, total):
            chunk = line.cut((states, targets), start)
            return start + line.chunk_size, total + self._chunk_value(*chunk)

        return self._walk(line, body, ops.zeros((), "float32"))[0]

    def _differentiable_sum(self, targets, line):
        """The function from states and head weights to the loss.

        Its gradients are known when its value is.
        """

        @ops.custom_gradient
        def function(states, *weights):
            def body(start, total, state_gradients, weight_gradients):
                chunk, chunk_targets = line.cut((states, targets), start)

                def value(chunk, *weights):
                    with self._head_scope(weights):
                        return self._chunk_value(chunk, chunk_targets)

                value, (chunk, *weight_gradients) = value_and_gradients(
                    value, [chunk, *weights], weight_gradients
                )
                state_gradients = ops.slice_update(
                    state_gradients, (start, 0), chunk
                )
                start = start + line.chunk_size
                return start, total + value, state_gradients, weight_gradients

            total, state_gradients, weight_gradients = self._walk(
                line,
                body,
                ops.zeros((), "float32"),
                ops.zeros_like(states),
                [ops.zeros_like(w) for w in weights],
            )

            def gradient(*args, upstream=None):
                upstream = args[0] if upstream is None else upstream
                return tuple(
                    scale_in_place(g, ops.cast(upstream, g.dtype))
                    for g in (state_gradients, *weight_gradients)
                )

            return total, gradient

        return function

    def _head_scope(self, weights=()):
        """Lets the heads read tensors, and no variables.

        TensorFlow wants to be told of every variable that is read under a
        custom gradient. `[...]` is the whole of a variable, as a tensor.
        """
        return keras.StatelessScope(
            [
                *((v, v[...]) for v in self._variables),
                *zip(self._weights, weights),
            ]
        )

    def _token_log_probs(self, states, targets, line):
        """What each model thinks of the tokens, of shape `(batch, length)`."""

        def body(start, *log_probs):
            chunk, chunk_targets = line.cut((states, targets), start)
            logits = (
                self.teacher.logits(chunk_targets["teacher"]),
                self.student.logits(chunk),
            )
            token_ids = chunk_targets["token_ids"][:, None]
            log_probs = [
                ops.slice_update(
                    written,
                    (start,),
                    ops.take_along_axis(
                        ops.log_softmax(ops.cast(x, "float32")), token_ids, 1
                    )[:, 0],
                )
                for written, x in zip(log_probs, logits)
            ]
            return start + line.chunk_size, *log_probs

        zeros = ops.zeros_like(targets["weights"])
        states = _stop_gradient(states)
        teacher, student = self._walk(line, body, zeros, zeros)
        return {
            "teacher_token_log_probs": line.fall_out(teacher),
            "student_token_log_probs": line.fall_out(student),
        }

    def _walk(self, line, body, *loop_vars):
        _, *loop_vars = while_loop(
            lambda start, *_: start < line.num_responses,
            body,
            (ops.zeros((), "int32"), *loop_vars),
            constants=self._variables,
        )
        return loop_vars


class _Line:
    """The positions of a batch in one line, those of the responses first."""

    def __init__(self, mask, chunk_size):
        mask = ops.cast(mask, "int32")
        self.shape = ops.shape(mask)
        size = self.shape[0] * self.shape[1]
        self.order = ops.argsort(1 - ops.reshape(mask, (-1,)))
        self.num_responses = ops.sum(mask)
        self.chunk_size = chunk_size
        self.padding = -size % chunk_size

    def form(self, values):
        """From `(batch, length, ...)` to the line, with zeros at its end."""

        def form(x):
            x = ops.reshape(x, (-1, *x.shape[2:]))
            x = ops.take(x, self.order, axis=0)
            paddings = [(0, self.padding), *[(0, 0)] * (len(x.shape) - 1)]
            return ops.pad(x, paddings)

        return tree.map_structure(_unless_none(form), values)

    def cut(self, values, start):
        """The part of the line that begins at `start`."""

        def cut(x):
            rest = len(x.shape) - 1
            shape = (self.chunk_size, *x.shape[1:])
            return ops.slice(x, (start, *[0] * rest), shape)

        return tree.map_structure(_unless_none(cut), values)

    def fall_out(self, x):
        """From the line back to `(batch, length)`."""
        size = ops.shape(self.order)[0]
        x = ops.take(x[:size], ops.argsort(self.order), axis=0)
        return ops.reshape(x, self.shape)


def _unless_none(function):
    return lambda x: None if x is None else function(x)


def _stop_gradient(x):
    return None if x is None else ops.stop_gradient(x)
