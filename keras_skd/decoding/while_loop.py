"""`keras.ops.while_loop` for bodies that read and write Keras variables."""

import keras
from keras import ops


def while_loop(cond, body, loop_vars, constants=(), states=()):
    """A `while` loop whose body may use models, samplers and random seeds.

    Compiled loops may change nothing outside of themselves. So the values of
    the `states` (random seeds) travel through the loop and are assigned after
    it. On JAX, during `fit`, variables do not even hold their values, so every
    variable that the body reads has to be named in `constants`.

    Args:
        cond: callable from the loop variables to a bool scalar.
        body: callable from the loop variables to the loop variables.
        loop_vars: tuple of nested structures of tensors.
        constants: iterable of `keras.Variable`s that the body only reads.
        states: iterable of `keras.Variable`s that the body may assign.

    Returns:
        The loop variables after the last round.
    """
    states = list(states)
    mapping = [(v, ops.convert_to_tensor(v)) for v in constants]

    def stateless_body(values, loop_vars):
        scope = keras.StatelessScope(mapping + list(zip(states, values)))
        with scope:
            loop_vars = tuple(body(*loop_vars))
        return [scope.get_current_value(v) for v in states], loop_vars

    values, loop_vars = ops.while_loop(
        lambda values, loop_vars: cond(*loop_vars),
        stateless_body,
        ([ops.convert_to_tensor(v) for v in states], tuple(loop_vars)),
    )
    for variable, value in zip(states, values):
        variable.assign(value)
    return loop_vars
