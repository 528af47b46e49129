"""Numbers that change over training."""

from keras_skd.schedules._schedules import Constant
from keras_skd.schedules._schedules import Cosine
from keras_skd.schedules._schedules import Linear
from keras_skd.schedules._schedules import Schedule
from keras_skd.schedules._schedules import deserialize
from keras_skd.schedules._schedules import get
from keras_skd.schedules._schedules import serialize
