from keras_skd.rollouts.mixture import Mixture
from keras_skd.rollouts.on_policy import OnPolicy
from keras_skd.rollouts.rollout import Rollout
from keras_skd.rollouts.serialization import get
from keras_skd.rollouts.speculative import Speculative
from keras_skd.rollouts.supervised import Supervised
from keras_skd.rollouts.switch import Switch
from keras_skd.rollouts.teacher import Teacher
