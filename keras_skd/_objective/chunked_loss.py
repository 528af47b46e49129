"""Losses from hidden states, without the logits of the whole batch.

Logits are by far the largest tensors in distillation: at a vocabulary of
262,144, those of 512 positions take half a gigabyte, and a loss needs several
of that size. Here both models' hidden states are projected to logits a chunk
of positions at a time, and the gradient of a chunk is computed in the forward
pass, so that nothing is kept or recomputed for the backward pass.
"""

import math

import keras
from keras import ops
from keras import tree

from keras_skd._backend import scale_in_place
from keras_skd._backend import value_and_gradients
from keras_skd._log_space import at_token
from keras_skd._log_space import kl_divergence
from keras_skd._objective.flat_positions import FlatPositions
from keras_skd._objective.targets import next_tokens
from keras_skd.decoding._control_flow import while_loop
from keras_skd.losses._distillation_loss import AUTHORS
from keras_skd.losses._distillation_loss import weighted

# Large enough for efficient matrix products, and small compared to a model.
_LOGITS_PER_CHUNK = 2**23

# Larger chunks are no faster, and add padding to the last one.
_POSITIONS_PER_CHUNK = 256


class ChunkedLoss:
    """A distillation loss on hidden states, a chunk of positions at a time.

    Args:
        loss: a `keras_skd.losses.DistillationLoss`.
        teacher, student: `CachedCausalLM`s, for their heads. The teacher may
            be `None` if the loss does not need it.
        chunk_size: int. How many positions are projected to logits at once.
            Defaults to `None`: 256, or the largest power of two that takes no
            more than 8 million logits.

    Call arguments:
        student_hidden_states: tensor of shape `(batch, length, hidden_dim)`.
        teacher_hidden_states: the teacher's, or `None` if the loss does not
            need them.
        rollout: dict of tensors of shape `(batch, length)`.
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
        self._variables = list(student.head_variables)
        if teacher is not None:
            self._variables += teacher.head_variables
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
            states, constants, positions = self._flatten(
                student_hidden_states,
                teacher_hidden_states if self.loss.needs_teacher else None,
                rollout,
                training_step,
            )
            if not training:
                return self._sum(states, constants, positions)
            weights = [v.value for v in self._weights]
            function = self._differentiable_sum(constants, positions)
            return function(states, *weights)

    def measure(
        self,
        student_hidden_states,
        teacher_hidden_states,
        rollout,
        training_step=0,
        with_parts=False,
        with_kl=False,
    ):
        """Takes the loss apart. No gradient flows through it.

        Both models are projected to the vocabulary once more.

        Args:
            student_hidden_states, teacher_hidden_states, rollout,
                training_step: as in the call.
            with_parts: bool. Whether to measure the parts of the loss.
            with_kl: bool. Whether to measure the forward KL divergence by
                author; it needs the teacher's hidden states.

        Returns:
            dict of float32 tensors: `"parts"`, the sum of each part; `"kl"`,
            the sum of the divergence at the tokens of each of `AUTHORS`, and
            `"kl_tokens"`, their number. What is not measured is empty.
        """
        names = self.loss.part_names if with_parts else []
        size = len(names), len(AUTHORS) * with_kl, len(AUTHORS) * with_kl
        with self._head_scope(detach=True):
            states, constants, positions = self._flatten(
                student_hidden_states,
                teacher_hidden_states,
                rollout,
                training_step,
            )
            states = ops.stop_gradient(states)

            def body(start, total):
                chunk, part = positions.chunk((states, constants), start)
                teacher = part["teacher"]
                logits = (
                    None if teacher is None else self.teacher.logits(teacher),
                    self.student.logits(chunk),
                )
                values = self._parts_of(logits, part) if with_parts else []
                if with_kl:
                    values = values + _kl_by_author(*logits, part["sources"])
                return start + positions.chunk_size, total + ops.stack(values)

            zeros = ops.zeros((sum(size),), "float32")
            total = ops.stop_gradient(self._loop(positions, body, zeros)[0])
        first, second = size[0], size[0] + size[1]
        return {
            "parts": total[:first],
            "kl": total[first:second],
            "kl_tokens": total[second:],
        }

    def _parts_of(self, logits, constants):
        """The sum of each part of the loss in a chunk."""
        parts = self.loss.part_values(
            logits[0] if self.loss.needs_teacher else None,
            logits[1],
            token_ids=constants["token_ids"],
            sources=constants["sources"],
            context=constants["context"],
        )
        return [
            _weighted_sum(values, constants["weights"])
            for values in parts.values()
        ]

    def _flatten(self, student, teacher, rollout, training_step):
        """The states of the student in one row, and what belongs to them.

        Returns:
            `(states, constants, positions)`.
        """
        targets = next_tokens(rollout)
        mask = targets["response_mask"]
        positions = FlatPositions(mask, self._chunk_size(mask))
        states = positions.flatten(student)
        constants = positions.flatten(
            {
                "teacher": teacher,
                "token_ids": targets["token_ids"],
                "sources": targets["sources"],
                "weights": self.loss.position_weights(mask),
            }
        )
        log_probs = {}
        if self.loss.needs_token_log_probs:
            log_probs = self._token_log_probs(states, constants, positions)
        context = self.loss.prepare(
            mask, targets["sources"], training_step, **log_probs
        )
        constants["context"] = positions.flatten(context)
        return states, tree.map_structure(_stop_gradient, constants), positions

    def _chunk_size(self, mask):
        size = self.chunk_size
        if size is None:
            size = _LOGITS_PER_CHUNK // self.student.vocabulary_size
            # Matrix products are efficient at powers of two.
            size = 2 ** int(math.log2(max(1, size)))
            size = min(size, _POSITIONS_PER_CHUNK)
        # The batch size may be unknown, on TensorFlow.
        if None not in mask.shape:
            size = min(size, math.prod(mask.shape))
        return size

    def _chunk_value(self, student_logits, constants):
        """The sum of the weighted losses of a chunk."""
        values = self.loss.position_values(
            self.teacher.logits(constants["teacher"])
            if self.loss.needs_teacher
            else None,
            student_logits,
            token_ids=constants["token_ids"],
            sources=constants["sources"],
            context=constants["context"],
        )
        return _weighted_sum(values, constants["weights"])

    def _sum(self, states, constants, positions):
        def body(start, total):
            chunk, chunk_constants = positions.chunk((states, constants), start)
            value = self._chunk_value(
                self.student.logits(chunk), chunk_constants
            )
            return start + positions.chunk_size, total + value

        return self._loop(positions, body, ops.zeros((), "float32"))[0]

    def _differentiable_sum(self, constants, positions):
        """A function from states and head weights to the loss.

        Its gradients are computed along with its value. They are summed and
        scaled (by a `LossScaleOptimizer`) in float32.
        """

        @ops.custom_gradient
        def function(states, *weights):
            def body(start, total, state_gradients, weight_gradients):
                chunk, chunk_constants = positions.chunk(
                    (states, constants), start
                )
                value, chunk, weight_gradients = self._chunk_gradients(
                    chunk, weights, chunk_constants, weight_gradients
                )
                state_gradients = ops.slice_update(
                    state_gradients, (start, 0), ops.cast(chunk, "float32")
                )
                start = start + positions.chunk_size
                return start, total + value, state_gradients, weight_gradients

            total, state_gradients, weight_gradients = self._loop(
                positions,
                body,
                ops.zeros((), "float32"),
                ops.zeros_like(states, "float32"),
                [ops.zeros_like(w, "float32") for w in weights],
            )

            def gradient(*args, upstream=None):
                upstream = args[0] if upstream is None else upstream
                upstream = ops.cast(upstream, "float32")
                return tuple(
                    ops.cast(scale_in_place(g, upstream), x.dtype)
                    for g, x in zip(
                        (state_gradients, *weight_gradients),
                        (states, *weights),
                    )
                )

            return total, gradient

        return function

    def _chunk_gradients(self, states, weights, constants, totals):
        """The value of a chunk and its gradients.

        Returns:
            The value, the gradient in the states, and `totals` with the
            gradients in the weights of the head added.
        """

        def project(states, *weights):
            with self._head_scope(weights):
                return self.student.logits(states)

        if self.student.compute_dtype != "float16":
            value, (states, *totals) = value_and_gradients(
                lambda *args: self._chunk_value(project(*args), constants),
                [states, *weights],
                totals,
            )
            return value, states, totals
        # In float16, the gradient of a logit would underflow: it is scaled in
        # the backward pass of the head.
        logits = project(states, *weights)
        value, (gradient,) = value_and_gradients(
            lambda logits: self._chunk_value(logits, constants),
            [ops.cast(logits, "float32")],
        )
        factor = _float16_factor(gradient, states)
        gradient = ops.cast(gradient * factor, logits.dtype)
        _, gradients = value_and_gradients(
            lambda *args: ops.sum(project(*args) * gradient),
            [states, *weights],
        )
        states, *gradients = (
            ops.cast(g, "float32") / factor for g in gradients
        )
        return value, states, [t + g for t, g in zip(totals, gradients)]

    def _head_scope(self, weights=(), detach=False):
        """Makes the heads read tensors in place of variables.

        TensorFlow must be told of every variable that is read under a custom
        gradient. `[...]` reads a variable as a tensor.
        """

        def value(variable):
            value = variable[...]
            return ops.stop_gradient(value) if detach else value

        return keras.StatelessScope(
            [
                *((v, value(v)) for v in self._variables),
                *zip(self._weights, weights),
            ]
        )

    def _token_log_probs(self, states, constants, positions):
        """Both models' log-probabilities of the tokens, `(batch, length)`."""

        def body(start, *log_probs):
            chunk, chunk_constants = positions.chunk((states, constants), start)
            logits = (
                self.teacher.logits(chunk_constants["teacher"]),
                self.student.logits(chunk),
            )
            log_probs = [
                ops.slice_update(
                    so_far,
                    (start,),
                    at_token(
                        ops.log_softmax(ops.cast(x, "float32")),
                        chunk_constants["token_ids"],
                    ),
                )
                for so_far, x in zip(log_probs, logits)
            ]
            return start + positions.chunk_size, *log_probs

        zeros = ops.zeros_like(constants["weights"], "float32")
        states = _stop_gradient(states)
        teacher, student = self._loop(positions, body, zeros, zeros)
        return {
            "teacher_token_log_probs": positions.unflatten(teacher),
            "student_token_log_probs": positions.unflatten(student),
        }

    def _loop(self, positions, body, *loop_vars):
        _, *loop_vars = while_loop(
            lambda start, *_: start < positions.num_responses,
            body,
            (ops.zeros((), "int32"), *loop_vars),
            constants=self._variables,
        )
        return loop_vars


def _float16_factor(gradient, states):
    """The factor that scales a gradient of logits into float16's range.

    Products with the head are sums over a row of the gradient, those with the
    states over a column. The maximum is 2**16, so that `2**11` leaves room for
    heads with entries up to 32.
    """
    gradient = ops.abs(gradient)
    states = ops.max(ops.abs(ops.cast(states, "float32")))
    rows = ops.max(ops.sum(gradient, axis=1))
    columns = ops.max(ops.sum(gradient, axis=0)) * ops.maximum(states, 1.0)
    return 2.0**11 / ops.maximum(ops.maximum(rows, columns), 1e-30)


def _weighted_sum(values, weights):
    return ops.cast(ops.sum(weighted(values, weights)), "float32")


def _kl_by_author(teacher_logits, student_logits, sources):
    """Sums of the divergence at each author's tokens, then their numbers."""
    divergence = kl_divergence(
        *(
            ops.log_softmax(ops.cast(logits, "float32"))
            for logits in (teacher_logits, student_logits)
        )
    )
    masks = [ops.equal(sources, source) for source in AUTHORS.values()]
    return [
        *(ops.sum(ops.where(mask, divergence, 0.0)) for mask in masks),
        *(ops.sum(ops.cast(mask, "float32")) for mask in masks),
    ]


def _stop_gradient(x):
    return None if x is None else ops.stop_gradient(x)
