from keras_skd._objective.micro_batches import MicroBatches
from keras_skd._objective.objective import Objective
from keras_skd._objective.targets import next_tokens
from keras_skd._objective.updates import split
from keras_skd._objective.widths import narrowest
