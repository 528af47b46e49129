"""Data parallelism over processes, as `torchrun` starts them.

Each process holds both models, and does the whole step on its own rows of the
batch. It communicates before and after a rollout, not in it: processes need
different numbers of rounds.
"""

import contextlib
from contextvars import ContextVar
from typing import NamedTuple

import keras
import numpy as np
import torch
from keras import ops
from keras import tree
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from keras_skd._backend.torch.operations import global_random_state
from keras_skd._backend.torch.operations import set_global_random_state
from keras_skd._seeding import derive_seed

# Keras' callbacks that write files, and change nothing else.
_WRITERS = (
    keras.callbacks.CSVLogger,
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.RemoteMonitor,
    keras.callbacks.TensorBoard,
)


class Rows(NamedTuple):
    """The rows of a batch that this process has: none, if there are too few."""

    start: int
    stop: int
    total: int

    @property
    def counts(self) -> bool:
        """Whether there are any. If not, there is one that does not count."""
        return self.start < self.stop


# During a step of several processes.
_rows: ContextVar[Rows | None] = ContextVar("rows", default=None)


def is_distributed() -> bool:
    """Whether there are several processes.

    Joins the others, if `torchrun` has started this one.
    """
    if not distributed.is_available():
        return False
    if not distributed.is_initialized():
        if not distributed.is_torchelastic_launched():
            return False
        distributed.init_process_group()
    return distributed.get_world_size() > 1


def is_first_process():
    return not is_distributed() or distributed.get_rank() == 0


def callbacks_of_others(callbacks, model):
    """The callbacks of processes other than the first, which writes the files.

    Args:
        callbacks: nested structure of `keras.callbacks.Callback`s, or `None`.
        model: the `keras.Model` that they are used with.
    """
    chosen = []
    for callback in tree.flatten(callbacks or []):
        if isinstance(callback, keras.callbacks.BackupAndRestore):
            callback.set_model(model)
            restore = callback.on_train_begin
            chosen.append(
                keras.callbacks.LambdaCallback(on_train_begin=restore)
            )
        elif not getattr(
            callback, "first_process_only", isinstance(callback, _WRITERS)
        ):
            chosen.append(callback)
    return chosen


class FirstDecides(keras.callbacks.Callback):
    """What the callbacks of the first process decide is what all processes do.

    It comes after the others. They may look at a clock, or at text that was
    sampled in their own process. If one process stopped alone, the next step of
    the others would wait for it.
    """

    def on_train_batch_end(self, batch, logs=None):
        message = [self.model.stop_training]
        distributed.broadcast_object_list(message, src=0)
        (self.model.stop_training,) = message

    def on_epoch_end(self, epoch, logs=None):
        self.on_train_batch_end(None)
        # The learning rate, and no slots of weights.
        variables = self.model.optimizer.variables
        copy_from_first([v for v in variables if not v.shape])

    def on_train_end(self, logs=None):
        # `EarlyStopping` may have restored those of the best epoch.
        copy_from_first(self.model.trainable_variables)


def sum_over_replicas(x):
    rows = _rows.get()
    if rows is None:
        return x

    def total(x):
        x = x.detach() * rows.counts
        distributed.all_reduce(x)
        return x

    return tree.map_structure(total, x)


def share(x):
    """The part of this process in `x`, to which those with rows add equally."""
    rows = _rows.get()
    if rows is None:
        return x
    return x * rows.counts / min(rows.total, distributed.get_world_size())


def rows_of_batch(num_rows):
    rows = _rows.get()
    return (num_rows, 0) if rows is None else (rows.total, rows.start)


def copy_from_first(variables):
    """Assigns the values of the first process to those of the others."""
    for variable in variables:
        distributed.broadcast(variable.value.detach(), src=0)


class SumOfLosses(torch.nn.Module):
    """The sum of the losses of all processes.

    `DistributedDataParallel` averages gradients as the backward pass computes
    them. Of a module, it needs the parameters, and a forward pass that ends
    where the backward pass begins. Keras' train step calls no such module: the
    head of the student is part of the loss. But all of it ends in the loss.

    Args:
        variables: list of the `keras.Variable`s that are trained.
    """

    def __init__(self, variables):
        super().__init__()
        self.values = torch.nn.ParameterList([v.value for v in variables])

    def forward(self, loss):
        return loss * distributed.get_world_size()


def sum_of_losses(variables):
    """A function from the loss of each process to one that trains on all."""
    return DistributedDataParallel(SumOfLosses(variables)).__call__


@contextlib.contextmanager
def own_rows(batch):
    """A context with this process' rows of a batch.

    The first process chooses the batch, since others may have shuffled
    differently, and the seed of PyTorch's own random numbers, which draw
    dropout. In the context, these differ between processes.

    Args:
        batch: dict of tensors, the whole batch.
    """
    rank, count = distributed.get_rank(), distributed.get_world_size()
    batch = {key: ops.convert_to_numpy(x) for key, x in batch.items()}
    message = [batch, int(torch.randint(2**31, ()))]
    distributed.broadcast_object_list(message, src=0)
    batch, seed = message
    total = len(batch["token_ids"])
    rows = Rows(total * rank // count, total * (rank + 1) // count, total)
    if rows.counts:
        batch = {k: x[rows.start : rows.stop] for k, x in batch.items()}
    else:
        batch = _full({k: x[:1] for k, x in batch.items()})
    random_state = global_random_state()
    token = _rows.set(rows)
    try:
        torch.manual_seed(seed + rank)
        yield {key: ops.convert_to_tensor(x) for key, x in batch.items()}
    finally:
        _rows.reset(token)
        set_global_random_state(random_state)


def _full(batch):
    """A batch of prompts that are full: no response is written or read."""
    batch["padding_mask"] = np.ones_like(batch["padding_mask"])
    if "response_mask" in batch:
        batch["response_mask"] = np.zeros_like(batch["response_mask"])
    return batch


@contextlib.contextmanager
def own_seeds(states):
    """A context in which each process draws different random numbers.

    Args:
        states: list of the states of `keras.random.SeedGenerator`s.
    """
    before = [state.value.clone() for state in states]
    for state in states:
        seed, counter = state.value.tolist()
        rank = distributed.get_rank()
        state.assign([derive_seed(seed, f"{counter}/{rank}"), 0])
    yield
    # The same in all processes, however much they have drawn.
    for state, value in zip(states, before):
        state.assign(value + value.new_tensor([0, 1]))


@contextlib.contextmanager
def changes_of_all(variables):
    """A context after which variables have changed by the sum of the changes.

    Args:
        variables: list of the variables of metrics, which Keras defines as
            sums.
    """
    before = [v.value.clone() for v in variables]
    yield
    changes = [v.value - value for v, value in zip(variables, before)]
    changes = sum_over_replicas(changes)
    for variable, value, change in zip(variables, before, changes):
        variable.assign(value + change)


def average(variables):
    """Assigns the mean over the processes to variables."""
    for variable in variables:
        value = variable.value.clone()
        distributed.all_reduce(value)
        variable.assign(value / distributed.get_world_size())
