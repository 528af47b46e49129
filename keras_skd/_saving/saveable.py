import contextlib
import functools
from contextvars import ContextVar

import keras
import keras_hub

from keras_skd import losses
from keras_skd import rollouts
from keras_skd._compatibility import check_tokenizers
from keras_skd._saving.configs import check_no_lambda
from keras_skd._saving.files import can_be_replaced
from keras_skd._saving.files import complete_file
from keras_skd._saving.models import deserialize_model
from keras_skd._saving.models import serialize_model
from keras_skd._saving.preprocessors import deserialize_preprocessors
from keras_skd._saving.preprocessors import serialize_preprocessors
from keras_skd._saving.state import UnsavedState
from keras_skd._without_lora import WithoutLora
from keras_skd._without_lora import without_lora

# The teacher of the file that is being loaded, if it is not in there.
_teacher: ContextVar = ContextVar("teacher", default=None)

# In place of a teacher's config: it is the student, without its adapters.
_STUDENT_WITHOUT_LORA = "student_without_lora"
_NO_TEACHER = "no_teacher"


class Saveable:
    """The methods of a `Distiller` that save and load.

    Keras saves what it finds in `dir(model)`, so the teacher is hidden from
    `dir` if it is not to be saved. `layers` is hidden too, so that the models
    are saved as attributes.
    """

    _saves_teacher = True

    def __dir__(self):
        hidden = ["layers"] if self._saves_teacher else ["layers", "teacher"]
        return [name for name in super().__dir__() if name not in hidden]

    @contextlib.contextmanager
    def _saving(self, teacher):
        """A context in which the teacher is saved and loaded, or not.

        Args:
            teacher: bool.
        """
        # On JAX, `fit` may hold the state.
        self.sync_state()
        before = self._saves_teacher
        self._saves_teacher = teacher
        try:
            yield
        finally:
            self._saves_teacher = before

    def save(
        self,
        filepath,
        overwrite: bool = True,
        zipped: bool | None = None,
        *,
        include_teacher: bool = True,
        **kwargs,
    ):
        """Saves the distiller to a `.keras` file, to continue training later.

        The file holds both models with their tokenizers, the rollout, loss,
        optimizer, metrics, seeds and step. Load it with
        `keras.saving.load_model`. An existing file is replaced when the new one
        is complete.

        Args:
            filepath: str or `pathlib.Path`, ending in `.keras`.
            overwrite: bool. Whether to replace an existing file without
                asking. Defaults to `True`.
            zipped: see `keras.Model.save`.
            include_teacher: bool. Whether the teacher is saved with the rest.
                It is frozen, and usually available as a preset. Without it,
                load the file with `Distiller.load(filepath, teacher=teacher)`.
                Defaults to `True`.

        Example:

        ```python
        distiller.save("distiller.keras", include_teacher=False)
        distiller = keras_skd.Distiller.load(
            "distiller.keras", teacher=teacher
        )
        ```
        """
        self._build_optimizer()
        with self._saving(teacher=include_teacher):
            if zipped is False or not can_be_replaced(filepath, overwrite):
                super().save(filepath, overwrite, zipped, **kwargs)
                return
            with complete_file(filepath) as partial:
                super().save(partial, overwrite, zipped, **kwargs)

    @classmethod
    def load(
        cls,
        filepath,
        teacher: keras_hub.models.CausalLM | None = None,
        custom_objects: dict | None = None,
        compile: bool = True,
        safe_mode: bool = True,
    ):
        """Loads a file of `distiller.save`.

        Args:
            filepath: str or `pathlib.Path`, a `.keras` file.
            teacher: a `keras_hub.models.CausalLM`, the teacher of a file that
                was saved with `include_teacher=False`. If the file has a
                teacher, it is replaced. Defaults to `None`, the file's.
            custom_objects, compile, safe_mode: see `keras.saving.load_model`.

        Returns:
            A `Distiller` that continues training where the saved one stopped.

        Raises:
            ValueError: if there is no teacher.
            TypeError: if the file holds a different kind of model.
        """
        token = _teacher.set(teacher)
        try:
            distiller = keras.saving.load_model(
                filepath, custom_objects, compile, safe_mode
            )
        finally:
            _teacher.reset(token)
        if not isinstance(distiller, cls):
            raise TypeError(
                f"`{filepath}` must hold a `{cls.__name__}`. Received a file "
                f"of a {type(distiller).__name__}. Load it with "
                "`keras.saving.load_model`."
            )
        distiller._saves_teacher = True
        # The constructor could not compare them: they are loaded after it.
        if distiller.teacher is not None:
            check_tokenizers(distiller.teacher, distiller.student)
        return distiller

    def save_weights(
        self, filepath, overwrite: bool = True, max_shard_size=None
    ):
        """Saves everything that training changes, without the frozen teacher.

        That is the student, the optimizer, metrics, seeds and step. The
        callbacks `keras.callbacks.BackupAndRestore` and
        `keras.callbacks.ModelCheckpoint(save_weights_only=True)` call it. An
        existing file is replaced when the new one is complete.

        Args:
            filepath: str or `pathlib.Path`, ending in `.weights.h5`.
            overwrite: bool. Whether to replace an existing file without
                asking. Defaults to `True`.
            max_shard_size: see `keras.Model.save_weights`.
        """
        whole = max_shard_size is None and can_be_replaced(filepath, overwrite)
        with self._saving(teacher=False):
            if not whole or not str(filepath).endswith(".weights.h5"):
                super().save_weights(filepath, overwrite, max_shard_size)
                return
            with complete_file(filepath) as partial:
                super().save_weights(partial, overwrite)

    def load_weights(self, filepath, skip_mismatch: bool = False, **kwargs):
        """Loads a file of `save_weights`. The teacher does not change.

        Args:
            filepath: str or `pathlib.Path`, a `.weights.h5` or `.keras` file.
            skip_mismatch: see `keras.Model.load_weights`.
        """
        self._build_optimizer()
        with self._saving(teacher=False):
            super().load_weights(filepath, skip_mismatch, **kwargs)

    def get_config(self) -> dict:
        preprocessors = {
            "student": self.student.preprocessor,
            "preprocessor": self.preprocessor,
        }
        if self._saves_teacher and self.teacher is not None:
            preprocessors["teacher"] = self.teacher.preprocessor
        length = self._pack.teacher_sequence_length
        doubled = self.sequence_length and 2 * self.sequence_length
        return {
            "teacher": self._teacher_config(),
            "student": serialize_model(self.student),
            "rollout": check_no_lambda(
                "rollout", rollouts.serialize(self.rollout)
            ),
            "preprocessor": serialize_preprocessors(preprocessors),
            "sequence_length": self.sequence_length,
            # The default may be longer than a different teacher can read.
            "teacher_sequence_length": None if length == doubled else length,
            "stop_token_ids": list(self.stop_token_ids),
            "vocabulary_size": self.vocabulary_size,
            **{
                name: keras.saving.serialize_keras_object(value)
                for name, value in self._pack.options.items()
            },
            "seed": self._seed,
            "name": self.name,
        }

    def _teacher_config(self):
        if self.teacher is None:
            return _NO_TEACHER
        if isinstance(self.teacher, WithoutLora):
            return _STUDENT_WITHOUT_LORA
        return serialize_model(self.teacher) if self._saves_teacher else None

    @classmethod
    def from_config(cls, config: dict):
        config = dict(config)
        preprocessors = deserialize_preprocessors(config.pop("preprocessor"))
        student = deserialize_model(
            config.pop("student"), preprocessors["student"]
        )
        given, teacher = _teacher.get(), config.pop("teacher")
        if given is None and teacher is None:
            raise ValueError(
                "The file was saved without its teacher. Load it with "
                "`keras_skd.Distiller.load(filepath, teacher=teacher)`."
            )
        if given is None and teacher == _STUDENT_WITHOUT_LORA:
            teacher = without_lora(student)
        elif given is None and teacher == _NO_TEACHER:
            teacher = None
        elif given is None:
            teacher = deserialize_model(teacher, preprocessors["teacher"])
        rollout = rollouts.deserialize(config.pop("rollout"))
        for name in ("columns", "chat_template", "teacher_chat_template"):
            config[name] = keras.saving.deserialize_keras_object(config[name])
        distiller = cls(
            given or teacher,
            student,
            rollout,
            preprocessor=preprocessors["preprocessor"],
            **config,
        )
        distiller._saves_teacher = given is None
        return distiller

    def get_compile_config(self) -> dict:
        if not self.compiled:
            return {}
        config = super().get_compile_config()
        config.pop("loss_weights")
        objective = self._objective
        serialize = keras.saving.serialize_keras_object
        return {
            **config,
            "loss": check_no_lambda("loss", losses.serialize(objective.loss)),
            "hidden_state_loss": serialize(objective.hidden_state_loss),
            "micro_batch_size": self._rows_of_update
            or (self._micro_batches and self._micro_batches.size),
            "accumulate_gradients": self._rows_of_update is None,
            "loss_chunk_size": objective.chunk_size,
            "rollout_metrics": list(self._additional_metrics.groups),
            "auto_scale_loss": self._auto_scale_loss,
        }

    def compile_from_config(self, config: dict):
        if config:
            self.compile(**keras.saving.deserialize_keras_object(config))
            self._build_optimizer()

    @functools.cached_property
    def _unsaved_state(self):
        """Saved with the distiller, but not one of its layers."""
        return UnsavedState(self)
