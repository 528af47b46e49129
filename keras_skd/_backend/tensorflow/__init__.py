from keras_skd._backend.tensorflow.trainer import RolloutTrainer
