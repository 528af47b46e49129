"""Seeds for independent streams of random numbers."""

import random

import keras
import numpy as np


def derive_seed(seed: int, name) -> int:
    """A seed for one of several streams of random numbers.

    Consecutive seeds would not be independent: on PyTorch, Keras seeds each
    draw with the sum of the seed and the number of draws so far, so that one
    stream would repeat the other, one step later.
    """
    return random.Random(f"{seed}/{name}").getrandbits(31)


def reseed(generator: keras.random.SeedGenerator, seed: int):
    """Restarts a generator from a different seed.

    Its state variable is assigned, not replaced, since compiled functions and
    checkpoints hold it.
    """
    state = keras.random.SeedGenerator(seed).state
    generator.state.assign(np.asarray(state))


def is_seed(variable) -> bool:
    """Whether a variable is the state of a `keras.random.SeedGenerator`."""
    return variable.name == "seed_generator_state"
