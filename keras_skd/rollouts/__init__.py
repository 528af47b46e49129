"""Rollouts write the sequences that the student is trained on."""

from keras_skd.rollouts._mixture import Mixture
from keras_skd.rollouts._mixture import Switch
from keras_skd.rollouts._rollout import Rollout
from keras_skd.rollouts._rollout import deserialize
from keras_skd.rollouts._rollout import get
from keras_skd.rollouts._rollout import serialize
from keras_skd.rollouts._single_author import OnPolicy
from keras_skd.rollouts._single_author import Supervised
from keras_skd.rollouts._single_author import Teacher
from keras_skd.rollouts._speculative import Segments
from keras_skd.rollouts._speculative import Speculative
