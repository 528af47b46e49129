"""From the data that users pass to right-padded token ids.

Ids are made once, and never decoded and encoded again: what the models wrote is
what the student is trained on.
"""

from keras_skd._preprocessing.inputs import gather
from keras_skd._preprocessing.inputs import pack_batch
from keras_skd._preprocessing.inputs import pack_generate_inputs
from keras_skd._preprocessing.inputs import prepare
from keras_skd._preprocessing.packer import Packer
