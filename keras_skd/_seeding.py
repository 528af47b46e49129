"""Seeds for streams of random numbers that must not follow one another."""

import random

import keras
import numpy as np


def derive_seed(seed: int, name) -> int:
    """A seed for one of several streams of random numbers.

    Neighboring seeds will not do: on PyTorch, Keras seeds each draw with the
    sum of the seed and the number of draws so far, so that one stream would
    repeat what its neighbor drew one step earlier.
    """
    return random.Random(f"{seed}/{name}").getrandbits(31)


def reseed(generator: keras.random.SeedGenerator, seed: int):
    """Restarts a generator from another seed.

    Its state is assigned and never replaced: compiled functions and optimizer
    checkpoints that hold the variable go on with it.
    """
    state = keras.random.SeedGenerator(seed).state
    generator.state.assign(np.asarray(state))
