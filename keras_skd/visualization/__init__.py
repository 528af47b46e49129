"""Pictures of rollouts and of training. Each function returns its picture."""

from keras_skd.visualization._acceptance import plot_acceptance
from keras_skd.visualization._history import plot_history
from keras_skd.visualization._rollout import show_rollout
