"""The state of a distiller that Keras does not save."""

import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_skd._backend import global_random_state
from keras_skd._backend import set_global_random_state
from keras_skd._without_lora import adapted_layers


class UnsavedState(keras.layers.Layer):
    """A layer that saves the state that the other layers do not.

    * The seeds of the student's dropout.
    * LoRA: Keras saves the sum of a kernel and its adapter, from which training
      cannot continue.
    * The seed of `generate_rollout`, and the random state of the backend.

    Keras saves private attributes last, so this is loaded after the models.

    Args:
        distiller: the `keras_skd.Distiller`.
    """

    def __init__(self, distiller):
        super().__init__(name="unsaved_state")
        # A reference, since Keras would track the distiller inside itself.
        self._distiller: Callable[[], Any] = weakref.ref(distiller)
        self.built = True

    def save_own_variables(self, store):
        for name, variable in self._variables().items():
            store[name] = variable
        lists = {
            "preview": self._distiller()._preview.state or [],
            "random": global_random_state(),
        }
        for name, values in lists.items():
            for i, value in enumerate(values):
                store[f"{name}_{i}"] = value

    def load_own_variables(self, store):
        distiller = self._distiller()
        variables = self._variables()
        missing = variables.keys() - store.keys()
        if missing:
            raise ValueError(
                "The file was saved by a different distiller: it lacks "
                f"{sorted(missing)} of the student's."
            )
        for name, variable in variables.items():
            variable.assign(store[name])
        distiller._preview.state = _list(store, "preview") or None
        random_state = _list(store, "random")
        if random_state:
            set_global_random_state(random_state)

    def save_assets(self, path):
        """Saves nothing, but makes Keras call `load_assets`."""

    def load_assets(self, path):
        """Builds the preprocessors, whose vocabularies are loaded by now."""
        self._distiller()._build_preprocessors()

    def _variables(self):
        student = self._distiller().student
        layers = student._flatten_layers()
        seeds = [s.state for x in layers for s in x._seed_generators]
        named = {f"seed_{i}": state for i, state in enumerate(seeds)}
        for i, layer in enumerate(adapted_layers(student.backbone)):
            own = layer._trainable_variables + layer._non_trainable_variables
            named.update({f"adapter_{i}_{j}": v for j, v in enumerate(own)})
        return named


def _list(store, name):
    """The arrays that were saved as `name_0`, `name_1` and so on."""
    keys = [f"{name}_{i}" for i in range(len(store.keys()))]
    saved = set(store.keys())
    return [np.array(store[key]) for key in keys if key in saved]
