"""Cached decoding of any KerasHub causal LM, each row at its own position."""

from keras_skd.decoding._cached_causal_lm import CachedCausalLM
from keras_skd.decoding._prompts import Prompts
from keras_skd.decoding._sequences import Sequences
from keras_skd.decoding._sequences import rollout_of
from keras_skd.decoding._writing import write
