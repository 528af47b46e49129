from keras_skd._backend.torch.passes.hoist import hoist
from keras_skd._backend.torch.passes.reinplace import reinplace
from keras_skd._backend.torch.passes.simplify import simplify
