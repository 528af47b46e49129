from keras_skd._backend.jax.trainer import RolloutTrainer
