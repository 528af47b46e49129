"""Replays the graph of a decoding step, without the Python of its layers."""

import contextlib
import warnings
import weakref
from contextvars import ContextVar

import keras
import torch
from keras import tree

from keras_skd._backend.eager import is_eager
from keras_skd._backend.torch.graph import Graph
from keras_skd._backend.torch.vmap import vmap_scope

# The weights that replays have read, or `None` outside of `frozen_weights`.
_weights = ContextVar("weights", default=None)


@contextlib.contextmanager
def frozen_weights():
    """A context in which no weight changes, so that each is read only once.

    Listing and reading the variables of a small student takes half as long as
    one of its steps.
    """
    token = _weights.set({})
    try:
        yield
    finally:
        _weights.reset(token)


def replay(function, variables, donate_argnum=None):
    # The latest graph for the shapes and dtypes of the arguments.
    graphs = {}

    def trace(state, values, arguments):
        def stateless(values, *arguments):
            with keras.StatelessScope(zip(state, values)), vmap_scope():
                return function(*arguments)

        try:
            return Graph(stateless, values, arguments, donate_argnum)
        except Exception as error:
            warnings.warn(
                "A decoding step cannot be traced, and runs in Python at each "
                f"token, which takes longer ({type(error).__name__}).",
                stacklevel=2,
            )
            return None

    def current_graph(shapes, state, values, arguments):
        """Traces again where LoRA or quantization replaced variables."""
        # Not by `id`: a new variable may have that of a deleted one.
        references = [weakref.ref(v) for v in state]
        if shapes not in graphs or not _same(graphs[shapes][0], references):
            graphs[shapes] = references, trace(state, values, arguments)
        return graphs[shapes][1]

    @torch.no_grad()
    def call(*arguments):
        if is_eager():
            return function(*arguments)
        read = _weights.get()
        read = {} if read is None else read
        if call not in read:
            state = variables()
            read[call] = state, [v.value for v in state], {}
        state, values, prepared = read[call]
        tensors = tree.flatten(arguments)
        shapes = tuple((x.shape, x.dtype) for x in tensors)
        if shapes not in prepared:
            graph = current_graph(shapes, state, values, arguments)
            weights = graph.prepare(values) if graph else None
            prepared[shapes] = graph, weights
        graph, weights = prepared[shapes]
        if graph is None:
            return function(*arguments)
        return graph(weights, tensors)

    return call


def _same(first, second):
    """Whether two lists of weak references are to the same living objects."""
    return len(first) == len(second) and all(
        a() is b() for a, b in zip(first, second)
    )
