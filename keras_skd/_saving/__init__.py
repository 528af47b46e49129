"""How a distiller is saved, loaded and cloned."""

from keras_skd._saving.files import complete_file
from keras_skd._saving.files import recover_folder
from keras_skd._saving.files import replace_folder
from keras_skd._saving.saveable import Saveable
