"""Keras' Adam by PyTorch's kernel, which reads and writes each weight once.

Keras' own makes five temporary copies of all weights in each step.
"""

import math
import types

import keras
import torch


def fuse(optimizer):
    """Lets an `Adam` or `AdamW` of Keras update by PyTorch's kernel."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    # Keras makes such an object for its own classes alone. A subclass may have
    # another update.
    is_keras_own = type(optimizer).__module__.startswith("keras.")
    if is_keras_own and isinstance(optimizer, keras.optimizers.Adam):
        optimizer._parallel_update_step = types.MethodType(_update, optimizer)


@torch.no_grad()
def _update(self, grads, variables, learning_rate):
    index = [self._get_variable_index(v) for v in variables]
    states = [self._momentums, self._velocities]
    if self.amsgrad:
        states.append(self._velocity_hats)
    states = [[state[i].value for i in index] for state in states]
    values = [v.value for v in variables]
    # The kernel goes through the memory of all of them alike.
    if not all(
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.is_contiguous()
        for tensors in (values, grads, *states)
        for x in tensors
    ):
        type(self)._parallel_update_step(self, grads, variables, learning_rate)
        return
    step = int(self.iterations) + 1
    torch._fused_adam_(
        values,
        grads,
        *states[:2],
        states[2] if self.amsgrad else [],
        [torch.tensor(float(step))] * len(values),
        lr=float(learning_rate),
        beta1=self.beta_1,
        beta2=self.beta_2,
        weight_decay=0.0,  # Keras' own comes before.
        # Keras adds epsilon before PyTorch's correction of the bias.
        eps=self.epsilon / math.sqrt(1 - self.beta_2**step),
        amsgrad=self.amsgrad,
        maximize=False,
    )
