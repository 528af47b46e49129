from keras_skd.acceptance.acceptance_rule import AcceptanceRule
from keras_skd.acceptance.serialization import get
from keras_skd.acceptance.top_k import TopK
