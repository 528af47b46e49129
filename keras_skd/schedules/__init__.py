from keras_skd.schedules._constant import Constant
from keras_skd.schedules._cosine import Cosine
from keras_skd.schedules._linear import Linear
from keras_skd.schedules._schedule import Schedule
from keras_skd.schedules._serialization import get
