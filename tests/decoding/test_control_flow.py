import keras
import numpy as np
import pytest

from keras_skd.decoding._control_flow import switch
from keras_skd.decoding._control_flow import while_loop
from tests.support.writing import compiled


def variable(value):
    return keras.Variable(value, dtype="int32", trainable=False)


def run(function, states, xla, *arguments):
    """Calls a function as a rollout is called, with the states in a scope.

    Returns what it returns, and the values of the states after it.
    """

    def stateless(values, *arguments):
        with keras.StatelessScope(zip(states, values)) as scope:
            result = function(*arguments)
        return result, [scope.get_current_value(v) for v in states]

    values = [keras.ops.convert_to_numpy(v) for v in states]
    result, values = compiled(stateless, xla)(values, *arguments)
    return result, [int(v) for v in values]


@pytest.mark.parametrize("xla", [False, True])
def test_states_travel_through_loops_in_branches_in_loops(xla):
    state, constant = variable(0), variable(3)

    def inner(i, total):
        state.assign(state + 1)
        return i + 1, total + constant * state

    def one(total):
        return while_loop(
            lambda i, total: i < 2,
            inner,
            (keras.ops.zeros((), "int32"), total),
            states=[state],
        )[1]

    def other(total):
        state.assign(state + 10)
        return total

    def outer(i, total):
        branches = [lambda: one(total), lambda: other(total)]
        index = keras.ops.cast(i % 2, "int32")
        total = switch(index, branches, states=[state])
        return i + 1, total

    def function(start):
        # Values that were assigned before are visible inside. Those of the
        # constants of a loop are visible in the loops and branches in it.
        state.assign(start)
        constant.assign(constant + 4)
        return while_loop(
            lambda i, total: i < 3,
            outer,
            (keras.ops.zeros((), "int32"), keras.ops.zeros((), "int32")),
            constants=[constant],
            states=[state],
        )[1]

    # 100, then 101 and 102, then 112, then 113 and 114.
    total, values = run(function, [state, constant], xla, np.int32(100))
    assert int(total) == 7 * (101 + 102 + 113 + 114)
    assert values == [114, 7]


@pytest.mark.parametrize("xla", [False, True])
def test_random_numbers_in_a_branch_are_those_outside_of_it(xla):
    seeds = [keras.random.SeedGenerator(7) for _ in range(2)]
    states = [seed.state for seed in seeds]

    def function(index):
        outside = [keras.random.uniform((3,), seed=seeds[0]) for _ in range(2)]

        def branch():
            return keras.random.uniform((3,), seed=seeds[1])

        inside = [
            switch(index, [branch, branch], states=[states[1]])
            for _ in range(2)
        ]
        return outside, inside

    def stateless(values, index):
        with keras.StatelessScope(zip(states, values)):
            return function(index)

    values = [keras.ops.convert_to_numpy(v) for v in states]
    outside, inside = compiled(stateless, xla)(values, np.int32(1))
    np.testing.assert_array_equal(outside, inside)
    assert not np.array_equal(*outside)
