"""Losses that train a student on a teacher's distributions."""

from keras_skd.losses._composite import BySource
from keras_skd.losses._composite import WeightedSum
from keras_skd.losses._cross_entropy import CrossEntropy
from keras_skd.losses._distillation_loss import DistillationLoss
from keras_skd.losses._distillation_loss import deserialize
from keras_skd.losses._distillation_loss import get
from keras_skd.losses._distillation_loss import serialize
from keras_skd.losses._distillm2 import DistiLLM2
from keras_skd.losses._distillm2 import distillm2_alpha
from keras_skd.losses._distillm2 import distillm2_beta
from keras_skd.losses._divergence import Divergence
from keras_skd.losses._divergences import AdaptiveKL
from keras_skd.losses._divergences import ForwardKL
from keras_skd.losses._divergences import GeneralizedJSD
from keras_skd.losses._divergences import ReverseKL
from keras_skd.losses._divergences import SkewKL
from keras_skd.losses._divergences import SkewReverseKL
from keras_skd.losses._divergences import TotalVariation
from keras_skd.losses._hidden_state_l1 import HiddenStateL1
