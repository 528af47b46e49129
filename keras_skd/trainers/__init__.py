"""How a rollout enters Keras' own train step, one short file per backend.

Each file defines a `RolloutTrainer`, mixed into `keras.Model` below the
`Distiller`. It writes a batch, without gradients, and hands what was written to
the train step of Keras, which stays what it is: forward pass, loss, loss
scaling, gradients, optimizer, metrics.
"""

import keras

if keras.config.backend() == "jax":
    from keras_skd.trainers.jax import RolloutTrainer
elif keras.config.backend() == "tensorflow":
    from keras_skd.trainers.tensorflow import RolloutTrainer
else:  # `backend/` has refused any other.
    from keras_skd.trainers.torch import RolloutTrainer
