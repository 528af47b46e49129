"""Graphs of PyTorch operations: traced, optimized, then run without Keras.

For a small model, most of a decoding step is spent in Python: in Keras' layers,
and in the dispatch of each operation. A graph has no layers, and the passes
leave fewer operations.
"""

import torch
from keras import tree
from torch.fx.graph import CodeGen

from keras_skd._backend.torch import passes
from keras_skd._backend.torch.tracing import trace

aten = torch.ops.aten

# Equivalent functions, which Python calls in half the time.
_NATIVE = {
    aten.add.Tensor: torch.add,
    aten.embedding.default: torch.embedding,
    aten.expand.default: torch.Tensor.expand,
    aten.mean.dim: torch.mean,
    aten.mm.default: torch.mm,
    aten.mul.Tensor: torch.mul,
    aten.neg.default: torch.neg,
    aten.pow.Tensor_Scalar: torch.pow,
    aten.reshape.default: torch.reshape,
    aten.rsqrt.default: torch.rsqrt,
    aten.select.int: torch.select,
    aten.stack.default: torch.stack,
    aten.transpose.int: torch.transpose,
    aten.unsqueeze.default: torch.unsqueeze,
}


class Graph:
    """A function of PyTorch tensors, as an optimized `torch.fx` graph.

    Args:
        function: callable from a list of weights and nested structures of
            tensors to a nested structure of tensors, without side effects.
        weights: list of tensors.
        arguments: list of nested structures of tensors. The arguments of a
            call must have the same shapes and dtypes.
        donate_argnum: int. The index of an argument whose memory a call may
            write its results to. Defaults to `None`.

    Call arguments:
        prepared: what `prepare` returned for the weights.
        tensors: flat list of the arguments' tensors.

    Attributes:
        module: `torch.fx.GraphModule`, from the prepared weights and the
            tensors to the flat results.
    """

    def __init__(self, function, weights, arguments, donate_argnum=None):
        tensors = tree.flatten(arguments)

        def flat(*tensors):
            values = list(tensors[: len(weights)])
            rest = tree.pack_sequence_as(arguments, tensors[len(weights) :])
            result = function(values, *rest)
            self._structure = tree.map_structure(lambda _: 0, result)
            return tree.flatten(result)

        self.module = trace(flat, [*weights, *tensors])
        graph = self.module.graph
        graph.set_codegen(CodeGen())
        inputs = graph.find_nodes(op="placeholder")
        weight_inputs = inputs[: len(weights)]
        passes.simplify(self.module)
        if donate_argnum is not None:
            packed = tree.pack_sequence_as(arguments, inputs[len(weights) :])
            passes.reinplace(graph, tree.flatten(packed[donate_argnum]))
            graph.eliminate_dead_code()
        self._prologue = passes.hoist(self.module, weight_inputs)
        for node in graph.nodes:
            node.target = _NATIVE.get(node.target, node.target)
        self.module.recompile()

    def prepare(self, weights):
        """Computes the inputs that depend on no argument, from the weights."""
        return self._prologue(*weights)

    def __call__(self, prepared, tensors):
        results = self.module.forward(*prepared, *tensors)
        return tree.pack_sequence_as(self._structure, results)
