from keras_skd.schedules.constant import Constant
from keras_skd.schedules.cosine import Cosine
from keras_skd.schedules.linear import Linear
from keras_skd.schedules.schedule import Schedule
from keras_skd.schedules.serialization import get
