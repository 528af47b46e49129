from keras_skd._backend.torch.trainer import RolloutTrainer
