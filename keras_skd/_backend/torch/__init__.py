from keras_skd._backend.torch.operations import global_random_state
from keras_skd._backend.torch.operations import on_each_device
from keras_skd._backend.torch.operations import scale_in_place
from keras_skd._backend.torch.operations import set_global_random_state
from keras_skd._backend.torch.operations import value_and_gradients
from keras_skd._backend.torch.replay import replay
from keras_skd._backend.torch.trainer import RolloutTrainer
from keras_skd._backend.torch.vmap import vmap_scope
