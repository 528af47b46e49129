"""`keras.ops` control flow for functions that read and write Keras variables.

Compiled loops and branches must have no side effects. So the values of the
`states` (random seeds) are loop variables, and are assigned at the end. On JAX,
variables do not hold their values during `fit`, so every variable that is read
must be listed in `constants`, of the loop or of one around it.
"""

import keras
from keras import ops


def while_loop(cond, body, loop_vars, constants=(), states=()):
    """`keras.ops.while_loop`.

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
    values = _values(states)  # Read outside of the scope.
    with _Scope(constants) as scope:
        body = scope.stateless(body, states)
        values, loop_vars = ops.while_loop(
            lambda values, loop_vars: cond(*loop_vars),
            lambda values, loop_vars: body(values, *loop_vars),
            (values, tuple(loop_vars)),
        )
    _assign(states, values)
    return loop_vars


def switch(index, branches, states=()):
    """`keras.ops.switch`, in a loop whose constants the branches may read.

    Args:
        index: int scalar.
        branches: list of callables without arguments that return nested
            structures of tensors of the same shapes.
        states: iterable of `keras.Variable`s that they may assign.

    Returns:
        The result of the branch at `index`.
    """
    if len(branches) == 1:
        return branches[0]()
    states = list(states)
    values = _values(states)  # Read outside of the scope.
    with _Scope() as scope:
        branches = [scope.stateless(branch, states) for branch in branches]
        values, result = ops.switch(
            index, [lambda branch=branch: branch(values) for branch in branches]
        )
    _assign(states, values)
    return result


class _Scope(keras.StatelessScope):
    """A scope with the values of the constants and, in a call, of the states.

    All rounds of a loop share one: making it takes time for each variable. It
    also has the values of the scope around it, such as that of an outer loop.
    """

    def __init__(self, constants=()):
        super().__init__([(v, ops.convert_to_tensor(v)) for v in constants])

    def __enter__(self):
        super().__enter__()
        if self.original_scope is not None:
            for key, value in self.original_scope.state_mapping.items():
                self.state_mapping.setdefault(key, value)
        return self

    def stateless(self, function, states):
        """A function from values of the states to new ones and a result."""

        def stateless(values, *args):
            for state, value in zip(states, values):
                self.add_update((state, value))
            result = function(*args)
            return [self.get_current_value(v) for v in states], result

        return stateless


def _values(states):
    # On TensorFlow, converting a variable does not read it: `[...]` does.
    return [v[...] for v in states]


def _assign(states, values):
    for variable, value in zip(states, values):
        variable.assign(value)
