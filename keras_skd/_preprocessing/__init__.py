"""Converts the data that users pass to right-padded token ids.

Ids are never decoded and encoded again: the student is trained on exactly the
tokens that the models wrote.
"""

from keras_skd._preprocessing.inputs import gather
from keras_skd._preprocessing.inputs import pack_batch
from keras_skd._preprocessing.inputs import pack_generate_inputs
from keras_skd._preprocessing.inputs import prepare
from keras_skd._preprocessing.packer import Packer
