"""Data parallelism over processes, as `torchrun` starts them.

Each process holds both models and trains on its own rows of each batch. All
communication is before or after a rollout, since the rollouts of different
processes take different numbers of rounds.
"""

import contextlib
import os
from contextvars import ContextVar
from typing import NamedTuple

import numpy as np
import torch
from keras import ops
from keras import tree
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from keras_skd._backend.torch.operations import global_random_state
from keras_skd._backend.torch.operations import set_global_random_state

# The seeds of two processes differ by a multiple of it, the integer next to
# `2**32` over the golden ratio: such multiples stay far from each other.
_SEED_STRIDE = 2654435769


class Rows(NamedTuple):
    """The rows of a batch that this process has: none, of a small batch."""

    start: int
    stop: int
    total: int


_rows = ContextVar("rows", default=None)


def is_distributed() -> bool:
    """Whether there are several processes.

    Joins the others, if `torchrun` has started this one and nobody has.
    """
    if not distributed.is_available():
        return False
    if not distributed.is_initialized():
        if not distributed.is_torchelastic_launched():
            return False
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        distributed.init_process_group()
    return distributed.get_world_size() > 1


def is_first_process() -> bool:
    return not is_distributed() or distributed.get_rank() == 0


def copy_from_first(variables):
    """Gives variables the values that they have in the first process."""
    for variable in variables:
        distributed.broadcast(variable.value.detach(), src=0)


class LossOfAll(torch.nn.Module):
    """The loss of all processes, whose gradients `backward` sums over them.

    `DistributedDataParallel` averages gradients as they become ready. It
    expects a module, of which it needs only the parameters and that the forward
    pass ends before the backward pass begins. A train step of Keras calls many
    modules, but has one loss.

    Args:
        variables: list of the trainable `keras.Variable`s.
    """

    def __init__(self, variables):
        super().__init__()
        self.values = torch.nn.ParameterList([v.value for v in variables])

    def forward(self, loss):
        return loss * distributed.get_world_size()

    @classmethod
    def of(cls, variables):
        return DistributedDataParallel(cls(variables))


@contextlib.contextmanager
def own_rows_of(batch):
    """A context with this process' rows of the first one's batch.

    It has random numbers of its own there. The first process chooses the batch
    and the seed, since others may have shuffled differently.

    Args:
        batch: dict of tensors.
    """
    rank, count = distributed.get_rank(), distributed.get_world_size()
    batch = {key: ops.convert_to_numpy(x) for key, x in batch.items()}
    message = [batch, int(torch.randint(2**31, ()))]
    distributed.broadcast_object_list(message, src=0)
    batch, seed = message
    total = len(batch["token_ids"])
    rows = Rows(total * rank // count, total * (rank + 1) // count, total)
    if rows.start < rows.stop:
        batch = {k: x[rows.start : rows.stop] for k, x in batch.items()}
    else:
        batch = _without_response({k: x[:1] for k, x in batch.items()})
    random_state = global_random_state()
    token = _rows.set(rows)
    try:
        torch.manual_seed(seed + rank)
        yield {key: ops.convert_to_tensor(x) for key, x in batch.items()}
    finally:
        _rows.reset(token)
        set_global_random_state(random_state)


def _without_response(batch):
    """A row that is full, so that nothing is written, and nothing counts."""
    batch["padding_mask"] = np.ones_like(batch["padding_mask"])
    if "response_mask" in batch:
        batch["response_mask"] = np.zeros_like(batch["response_mask"])
    return batch


def total_rows(count):
    rows = _rows.get()
    return count if rows is None else rows.total


def all_rows(values):
    rows = _rows.get()
    if rows is None:
        return values

    def gather(x):
        dtype = torch.uint8 if x.dtype == torch.bool else x.dtype
        whole = x.new_zeros((rows.total, *x.shape[1:]), dtype=dtype)
        whole[rows.start : rows.stop] = x[: rows.stop - rows.start]
        distributed.all_reduce(whole)
        return whole.to(x.dtype)

    return tree.map_structure(gather, values)


def own_rows(values):
    rows = _rows.get()
    if rows is None:
        return values

    def take(x):
        if rows.start == rows.stop:
            return torch.zeros_like(x[:1])
        return x[rows.start : rows.stop]

    return tree.map_structure(take, values)


def sum_of_all(x):
    if _rows.get() is None:
        return x
    x = x.detach().clone()
    distributed.all_reduce(x)
    return x


def share_of_sum(x):
    return x if _rows.get() is None else x / distributed.get_world_size()


@contextlib.contextmanager
def own_seeds(variables):
    if _rows.get() is None:
        yield
        return
    seeds = [v for v in variables if v.name == "seed_generator_state"]
    # Seeds are 32 bits, in the form of an int32, whose sums wrap around.
    stride = distributed.get_rank() * _SEED_STRIDE % 2**32
    stride = np.array([stride, 0], "uint32").view("int32")
    stride = ops.convert_to_tensor(stride)
    for seed in seeds:
        seed.assign(seed.value + stride)
    try:
        yield
    finally:
        for seed in seeds:
            seed.assign(seed.value - stride)


@contextlib.contextmanager
def changes_of_all(variables):
    """A context at whose end variables change by the changes of all processes.

    Args:
        variables: list of the variables of metrics, which are sums.
    """
    before = [v.value.clone() for v in variables]
    yield
    rows = _rows.get()
    for variable, value in zip(variables, before):
        # A process without rows has counted one that does not exist.
        change = (variable.value - value) * (rows.start < rows.stop)
        distributed.all_reduce(change)
        variable.assign(value + change)


def agree(variables):
    """Gives the state of a rollout equal values in all processes.

    Args:
        variables: list of variables: of seeds, which go on from the process
            that has drawn most, or of estimates, which are averaged.
    """
    for variable in variables:
        value = variable.value.clone()
        if value.is_floating_point():
            distributed.all_reduce(value)
            value /= distributed.get_world_size()
        else:
            distributed.all_reduce(value, distributed.ReduceOp.MAX)
        variable.assign(value)
