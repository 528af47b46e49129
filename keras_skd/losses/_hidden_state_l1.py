from keras import ops

from keras_skd._backend import sum_over_replicas
from keras_skd._checks import check_number
from keras_skd._registry import Configurable
from keras_skd.losses._distillation_loss import registry


@registry.register()
class HiddenStateL1(Configurable):
    """L1 distance of the student's hidden states from the teacher's.

    With `t` and `s` the hidden states of a layer at the positions of a
    response, for each row::

        loss = weight * sum(sum(abs(t - s)) / sum(abs(t)) for each layer)

    averaged over the batch. It is added to a loss of the logits, by
    `Distiller.compile(loss="forward_kl", hidden_state_loss=HiddenStateL1())`.
    The layers of teacher and student must have the same width, as in one model
    with two prompts, or with and without LoRA.

    Args:
        layers: list of names of backbone layers that both models have, or dict
            from the teacher's names to the student's. Defaults to `None`, all
            transformer layers.
        weight: float. A factor. Defaults to `1.0`.

    Call arguments:
        teacher_states: list of float tensors `(batch, length, hidden_dim)`.
        student_states: the student's, likewise.
        mask: bool tensor `(batch, length)`, the positions that count.

    Example:

    ```python
    teacher_states = [keras.random.normal((2, 8, 16)) for _ in range(3)]
    student_states = [keras.random.normal((2, 8, 16)) for _ in range(3)]
    response_mask = keras.ops.arange(8) >= keras.ops.array([[3], [5]])
    loss = keras_skd.losses.HiddenStateL1(weight=0.5)
    loss(teacher_states, student_states, response_mask)
    ```

    References:
        - [Caccia et al., 2025, Eq. 2](https://arxiv.org/abs/2503.08727)
    """

    def __init__(
        self,
        layers: list[str] | dict[str, str] | None = None,
        weight: float = 1.0,
    ):
        if layers is not None and not isinstance(layers, (list, tuple, dict)):
            raise TypeError(
                "`layers` must be a list of names, a dict of names or `None`. "
                f"Received: layers={layers!r}"
            )
        self.layers = layers
        self.weight = check_number("weight", weight, "[0, inf)")

    def __call__(self, teacher_states, student_states, mask):
        mask = ops.cast(mask, "bool")[..., None]
        total = 0.0
        for teacher, student in zip(
            teacher_states, student_states, strict=True
        ):
            teacher = ops.stop_gradient(ops.cast(teacher, "float32"))
            student = ops.cast(student, "float32")
            difference = ops.where(mask, ops.abs(teacher - student), 0.0)
            size = ops.where(mask, ops.abs(teacher), 0.0)
            # This avoids 0 / 0 in a row without a response.
            size = ops.sum(size, axis=(1, 2))
            size = ops.where(size == 0, 1.0, size)
            total = total + ops.sum(difference, axis=(1, 2)) / size
        num_rows = ops.cast(ops.size(total), "float32")
        return self.weight * ops.sum(total) / sum_over_replicas(num_rows)

    def outputs(self, teacher, student) -> tuple[list, list]:
        """Returns the symbolic outputs of the layers in both backbones.

        Raises:
            ValueError: if a layer does not exist, or two have different
                widths.
        """
        if self.layers is None:
            pairs = [m.transformer_layers for m in (teacher, student)]
        else:
            names = self.layers
            if not isinstance(names, dict):
                names = {name: name for name in names}
            pairs = (
                [teacher.get_layer(name) for name in names],
                [student.get_layer(name) for name in names.values()],
            )
        theirs, ours = ([_first(x.output) for x in layers] for layers in pairs)
        shapes = [[x.shape[-1] for x in states] for states in (theirs, ours)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                "`HiddenStateL1` compares layers of equal width, in pairs. "
                f"Received widths: {shapes[0]} in the teacher and {shapes[1]} "
                "in the student. Name pairs of layers in `layers`."
            )
        return theirs, ours

    def get_config(self) -> dict:
        return {"layers": self.layers, "weight": self.weight}


def _first(outputs):
    return outputs[0] if isinstance(outputs, (list, tuple)) else outputs
