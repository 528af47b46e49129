"""Speculative knowledge distillation of language models, in Keras 3."""

from keras_skd import acceptance
from keras_skd import callbacks
from keras_skd import chat
from keras_skd import losses
from keras_skd import rollouts
from keras_skd import schedules
from keras_skd import visualization
from keras_skd._distiller import Distiller
from keras_skd._source import Source
from keras_skd._without_lora import without_lora

__version__ = "0.1.0"
