from keras_skd._backend.tensorflow.operations import global_random_state
from keras_skd._backend.tensorflow.operations import on_each_device
from keras_skd._backend.tensorflow.operations import replay
from keras_skd._backend.tensorflow.operations import scale_in_place
from keras_skd._backend.tensorflow.operations import set_global_random_state
from keras_skd._backend.tensorflow.operations import value_and_gradients
from keras_skd._backend.tensorflow.operations import vmap_scope
from keras_skd._backend.tensorflow.trainer import RolloutTrainer
