"""Records PyTorch operations as a `torch.fx` graph."""

import operator

import torch
from torch._subclasses import FakeTensor
from torch._subclasses import FakeTensorMode
from torch.fx import Graph
from torch.fx import GraphModule
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

# Of operations with a result, or the shape of one, that depends on values.
_READS_VALUES = {
    torch.Tag.data_dependent_output,
    torch.Tag.dynamic_output_shape,
}


def trace(function, tensors):
    """Calls a function, and returns its operations.

    It does what `make_fx` does to operations on tensors, in less time.

    Args:
        function: callable from tensors to a list of tensors, without side
            effects. What it changes in place becomes new tensors.
        tensors: list of tensors.

    Returns:
        `torch.fx.GraphModule` from tensors of the same shapes and dtypes to
        the list. `meta["val"]` of a node is a fake tensor like its result.

    Raises:
        RuntimeError: if the operations depend on the values of the tensors.
    """
    recorder = _Recorder(tensors)
    with recorder:
        results = torch.func.functionalize(function)(*tensors)
    return recorder.finish(results)


class _Recorder(TorchDispatchMode):
    """Runs operations, and adds each to a graph.

    Args:
        tensors: list of the tensors that differ between calls of the graph.
    """

    def __init__(self, tensors):
        super().__init__()
        self._graph = Graph()
        self._constants = {}
        self._nodes = WeakTensorKeyDictionary()
        # The tensors that are there before and after a call.
        self._lasting = WeakTensorKeyDictionary()
        # Those of which the values differ between calls.
        self._changing = set()
        self._fake_mode = FakeTensorMode()
        for i, tensor in enumerate(tensors):
            node = self._graph.placeholder(f"input_{i}")
            self._changing.add(node)
            self._lasting[tensor] = True
            self._set_node(tensor, node)

    def finish(self, results):
        self._graph.output(self._to_nodes(results))
        return GraphModule(self._constants, self._graph)

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        node = self._graph.call_function(
            operation,
            self._to_nodes(args),
            {key: self._to_nodes(value) for key, value in kwargs.items()},
        )
        # Operations such as `rms_norm` change their own intermediate results,
        # which the graph does as well.
        if operation._schema.is_mutable and args[0] in self._lasting:
            raise RuntimeError(f"{operation} changes a tensor in place.")
        is_random = torch.Tag.nondeterministic_seeded in operation.tags
        if is_random or not self._changing.isdisjoint(node.all_input_nodes):
            self._changing.add(node)
            if not _READS_VALUES.isdisjoint(operation.tags):
                raise RuntimeError(f"{operation} depends on values.")
        result = operation(*args, **kwargs)
        if isinstance(result, torch.Tensor):
            self._set_node(result, node)
        elif isinstance(result, (list, tuple)):
            self._set_parts(result, node)
        else:  # A number, of constants or of shapes.
            self._graph.erase_node(node)
        return result

    def _set_parts(self, results, node):
        node.meta["val"] = [None] * len(results)
        for i, result in enumerate(results):
            if not isinstance(result, torch.Tensor):
                continue
            part = self._graph.call_function(operator.getitem, (node, i))
            if node in self._changing:
                self._changing.add(part)
            self._set_node(result, part)
            node.meta["val"][i] = part.meta["val"]

    def _set_node(self, tensor, node):
        self._nodes[tensor] = node
        like = torch.empty_strided(
            tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta"
        )
        node.meta["val"] = FakeTensor(self._fake_mode, like, tensor.device)

    def _to_nodes(self, x):
        """Replaces tensors by their nodes."""
        if isinstance(x, (list, tuple)):
            return type(x)(map(self._to_nodes, x))
        if not isinstance(x, torch.Tensor):
            return x
        node = self._nodes.get(x)
        if node is None:
            name = f"constant_{len(self._constants)}"
            self._constants[name] = x
            self._lasting[x] = True
            node = self._graph.get_attr(name)
            self._set_node(x, node)
        return node
