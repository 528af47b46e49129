import keras


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """A number that changes over the training steps, without recompiling.

    Schedules are those of Keras' optimizers, with names that fit any number:
    wherever a schedule is taken, so is a
    `keras.optimizers.schedules.LearningRateSchedule`. A step is one batch.

    Call arguments:
        step: int tensor, how many batches were trained on.

    Returns:
        float32 scalar.
    """
