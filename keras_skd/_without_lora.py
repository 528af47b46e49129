"""A student and its base, with one copy of the weights."""

import contextlib

import keras_hub


class WithoutLora:
    """The base of a model with LoRA: the same layers, its adapters off.

    `keras_skd.without_lora` makes it. A `CachedCausalLM` runs it.

    Args:
        student: a `keras_hub.models.CausalLM` with LoRA.
    """

    # A teacher is frozen; this one has no weights that are not.
    trainable = False
    # Those that it reads are the student's.
    variables = ()

    def __init__(self, student):
        self.student = student
        self.adapted_layers = adapted_layers(student.backbone)

    @property
    def backbone(self):
        return self.student.backbone

    @property
    def preprocessor(self):
        return self.student.preprocessor

    @property
    def output(self):
        return self.student.output

    @contextlib.contextmanager
    def scope(self):
        """A context in which the layers run, or are traced, without LoRA."""
        before = [layer.lora_enabled for layer in self.adapted_layers]
        try:
            for layer in self.adapted_layers:
                layer.lora_enabled = False
            yield
        finally:
            for layer, enabled in zip(self.adapted_layers, before):
                layer.lora_enabled = enabled


def without_lora(student: keras_hub.models.CausalLM) -> WithoutLora:
    """The base of a student with LoRA, as its teacher.

    A model can be distilled into itself, for example with a document in the
    teacher's prompts (`"teacher_prompts"`). Teacher and student share the
    frozen weights, so that memory holds one copy of them.

    All other weights of the student are frozen, since the teacher has them too:
    KerasHub leaves the biases of adapted layers trainable.

    Args:
        student: a `keras_hub.models.CausalLM`, after
            `student.backbone.enable_lora(rank)`.

    Returns:
        A teacher for `keras_skd.Distiller(teacher, student)`.

    Raises:
        TypeError: if `student` is not a `keras_hub.models.CausalLM`.
        ValueError: if LoRA is not enabled in it.

    Example:

    ```python
    student.backbone.enable_lora(8)
    teacher = keras_skd.without_lora(student)
    distiller = keras_skd.Distiller(teacher, student, rollout="on_policy")
    ```
    """
    if not isinstance(student, keras_hub.models.CausalLM):
        raise TypeError(
            "`student` must be a `keras_hub.models.CausalLM`. Received: "
            f"{student!r} of type {type(student).__name__}"
        )
    teacher = WithoutLora(student)
    if not teacher.adapted_layers:
        raise ValueError(
            "`student` must have LoRA enabled: without it, there is nothing "
            "to turn off, and nothing to train. Call "
            "`student.backbone.enable_lora(rank)` first. Received: "
            f"{type(student).__name__} with no adapted layer."
        )
    adapters = {
        id(value)
        for layer in teacher.adapted_layers
        for name, value in vars(layer).items()
        if name.startswith("lora_")
    }
    for variable in student.trainable_variables:
        if id(variable) not in adapters:
            variable.trainable = False
    return teacher


def adapted_layers(backbone) -> list:
    """The layers of a backbone in which LoRA is enabled."""
    layers = backbone._flatten_layers()
    return [x for x in layers if getattr(x, "lora_enabled", False)]
