from keras_skd.decoding import _lockstep as lockstep
from keras_skd.decoding import _ragged as ragged
from keras_skd.decoding import _segments as segments
from keras_skd.decoding._cached_causal_lm import CachedCausalLM
from keras_skd.decoding._num_drafts import NumDrafts
from keras_skd.decoding._sampling import derive_seed
from keras_skd.decoding._sampling import get_sampler
from keras_skd.decoding._sampling import log_probabilities
from keras_skd.decoding._sampling import sample
from keras_skd.decoding._sampling import with_seed
from keras_skd.decoding._sequences import Prompts
from keras_skd.decoding._sequences import before_any
from keras_skd.decoding._sequences import columns
from keras_skd.decoding._sequences import finish
from keras_skd.decoding._sequences import is_stop
from keras_skd.decoding._teacher_view import TeacherView
