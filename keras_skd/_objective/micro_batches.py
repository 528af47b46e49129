"""The loss of a batch, of which a few rows are read at a time."""

import functools

import keras
from keras import ops
from keras import tree

from keras_skd._backend import own_micro_batch
from keras_skd._backend import scale_in_place
from keras_skd._backend import sum_over_replicas
from keras_skd._backend import value_and_gradients
from keras_skd._objective.widths import narrow
from keras_skd._objective.widths import widths_of
from keras_skd.decoding._control_flow import while_loop


class MicroBatches:
    """The sum of a loss over micro-batches, with its gradients.

    The activations of a micro-batch are freed before the next: a large batch
    takes as much memory for them as a small one. Where rows are shorter than
    the batch is wide, columns of padding are not read.

    Args:
        loss: callable from a micro-batch and its share of the rows of the batch
            to `(loss, measured)`, a scalar and a dict of tensors. Their sums
            over the micro-batches are the loss of the batch, and what is
            measured of it. The mean of what
            layers add to the loss is added to it.
        size: int. The number of rows in a micro-batch.
        variables: list of `keras.Variable`s that `loss` reads. The loss has
            gradients in those that are trainable.

    Call arguments:
        batch: dict of tensors with equal first dimension: a rollout, and its
            `"loss_weights"`.
        measured: dict of tensors, what `loss` measures of no row at all.
        states: list of `keras.Variable`s that `loss` may assign.

    Returns:
        As `loss`, for all rows.
    """

    def __init__(self, loss, size, variables):
        self.loss = loss
        self.size = size
        self.trainable = [v for v in variables if v.trainable]
        self.variables = variables

    def __call__(self, batch, measured, states):
        rows, count, micro_batch = self._split(batch)
        # Of all replicas, which share the batch.
        of_all = sum_over_replicas(
            (ops.cast(rows, "float32"), ops.cast(count, "float32"))
        )
        shares = [
            ops.cast(n, "float32") / ops.maximum(m, 1.0)
            for n, m in zip((self.size, 1), of_all)
        ]
        # TensorFlow must be told of variables that are read in a custom
        # gradient. `[...]` reads a variable as a tensor.
        values = [ops.stop_gradient(v[...]) for v in self.variables]
        weights = [ops.stop_gradient(v[...]) for v in self.trainable]

        def body(i, loss, gradients, measured):
            part, end = micro_batch(i)
            value, new, gradients = self._read(
                part, end, shares, values, weights, gradients, states
            )
            measured = {name: measured[name] + new[name] for name in measured}
            return i + 1, loss + value, gradients, measured

        totals = [ops.zeros_like(w, "float32") for w in weights]
        start = ops.zeros((), "int32"), ops.zeros((), "float32")
        _, loss, gradients, measured = while_loop(
            lambda i, *_: i < count,
            body,
            (*start, totals, measured),
            states=states,
        )
        loss = _with_gradients(
            ops.stop_gradient(loss),
            [v.value for v in self.trainable],
            [ops.stop_gradient(g) for g in gradients],
        )
        return loss, tree.map_structure(ops.stop_gradient, measured)

    def _read(self, part, end, shares, values, weights, totals, states):
        """Reads a micro-batch, and assigns the states.

        Args:
            part: the micro-batch.
            end: int scalar, the end of its longest row.
            shares: see `_loss_of`.
            values, weights: lists of tensors, of all variables and of those
                that are trained.
            totals: see `value_and_gradients`.
            states: list of `keras.Variable`s.

        Returns:
            The loss, what is measured, and the gradients.
        """
        current = [v[...] for v in states]

        def in_width(width):
            def function(*weights):
                variables = [
                    *zip(self.variables, values),
                    *zip(states, current),
                    *zip(self.trainable, weights),
                ]
                return self._loss_of(
                    narrow(part, width), shares, variables, states
                )

            return value_and_gradients(function, weights, totals, has_aux=True)

        length = part["token_ids"].shape[1]
        (value, (measured, changed)), gradients = _in_width(
            in_width, end, length
        )
        for variable, state in zip(states, changed):
            variable.assign(state)
        return value, measured, gradients

    def _loss_of(self, micro_batch, shares, variables, states):
        """The loss of a micro-batch, and `(measured, values of the states)`.

        Args:
            shares: pair of scalars, the share of all rows and of all
                micro-batches.
            variables: list of pairs of a variable and its value.
        """
        scope = keras.StatelessScope(variables, collect_losses=True)
        with scope, own_micro_batch():
            loss, measured = self.loss(micro_batch, shares[0])
        for additional in scope.losses:
            additional = ops.sum(ops.cast(additional, "float32"))
            loss = loss + additional * shares[1]
        return loss, (measured, [scope.get_current_value(v) for v in states])

    def _split(self, batch):
        """Splits a batch into micro-batches, from long rows to short ones.

        Each takes a row from every so many consecutive rows, the longest of
        them first: devices that hold a part of the batch each also hold a part
        of each micro-batch.

        Returns:
            The number of rows, that of micro-batches, and a function from the
            index of a micro-batch to it and to the end of its longest row.
        """
        rows = batch["token_ids"].shape[0]
        is_even = rows is not None and rows % self.size == 0
        if rows is None:
            rows = ops.shape(batch["token_ids"])[0]
        count = -(-rows // self.size)
        if not is_even:
            # The last row is repeated, without a response, so that it adds
            # nothing to the loss.
            index = ops.arange(count * self.size, dtype="int32")
            batch = {
                key: ops.take(x, ops.minimum(index, rows - 1), axis=0)
                for key, x in batch.items()
            }
            for key in ("response_mask", "sources", "loss_weights"):
                batch[key] = ops.where(
                    (index < rows)[:, None],
                    batch[key],
                    ops.zeros_like(batch[key]),
                )
        batch = {
            key: ops.reshape(x, (self.size, count, *x.shape[1:]))
            for key, x in batch.items()
        }
        ends = ops.sum(ops.cast(batch["padding_mask"], "int32"), axis=2)
        order = ops.argsort(-ends, axis=1)

        def micro_batch(i):
            chosen = ops.take(order, i, axis=1)

            def choose(x):
                index = ops.reshape(chosen, (-1, *[1] * (len(x.shape) - 1)))
                return ops.take_along_axis(x, index, axis=1)[:, 0]

            return (
                {key: choose(x) for key, x in batch.items()},
                ops.max(choose(ends)),
            )

        return rows, count, micro_batch


def _in_width(function, end, sequence_length):
    """Calls a function of a width with the narrowest that holds a row's end.

    Each width is compiled.
    """
    choices = widths_of(sequence_length)
    if len(choices) == 1:
        return function(sequence_length)
    narrower = (ops.cast(end > width, "int32") for width in choices[:-1])
    return ops.switch(
        sum(narrower),
        [functools.partial(function, width) for width in choices],
    )


def _with_gradients(value, weights, gradients):
    """`value`, as a function of the weights that has these gradients."""

    @ops.custom_gradient
    def function(*weights):
        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            upstream = ops.cast(upstream, "float32")
            return tuple(
                ops.cast(scale_in_place(g, upstream), w.dtype)
                for g, w in zip(gradients, weights)
            )

        return value, gradient

    return function(*weights)
