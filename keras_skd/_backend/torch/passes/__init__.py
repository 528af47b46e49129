from keras_skd._backend.torch.passes.hoist import hoist_constants
from keras_skd._backend.torch.passes.hoist import hoist_weight_views
from keras_skd._backend.torch.passes.reinplace import reinplace
from keras_skd._backend.torch.passes.simplify import simplify
