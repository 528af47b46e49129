"""References for the losses: float64 NumPy, and autodiff."""

import keras
import numpy as np


def logits(shape=(2, 4, 7)):
    """A teacher's and a student's. One shape, so that JAX compiles once."""
    rng = np.random.default_rng(0)
    return (
        rng.normal(0, 2, shape).astype("float32"),
        rng.normal(0, 2, shape).astype("float32"),
    )


def softmax(logits):
    logits = np.asarray(logits, "float64")
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


def kl(p, q):
    return np.sum(p * (np.log(p) - np.log(q)), axis=-1)


def adaptive_kl(p, q, constant_q, head_mass=0.5):
    """`constant_q` is the student where it counts as a constant."""
    weights = np.zeros(p.shape[:-1] + (2,))
    for position in np.ndindex(p.shape[:-1]):
        mass, gaps = 0.0, [0.0, 0.0]
        for token in np.argsort(-p[position], kind="stable"):
            in_tail = int(mass >= head_mass)
            gaps[in_tail] += abs(
                p[position][token] - constant_q[position][token]
            )
            mass += p[position][token]
        weights[position] = np.array(gaps) / max(sum(gaps), 1e-300)
    return weights[..., 0] * kl(p, q) + weights[..., 1] * kl(q, p)


def top_k_and_rest(p, q, k):
    ids = np.argsort(-p, axis=-1, kind="stable")[..., :k]
    top_p = np.take_along_axis(p, ids, -1)
    top_q = np.take_along_axis(q, ids, -1)
    return (
        np.concatenate([top_p, 1 - top_p.sum(-1, keepdims=True)], -1),
        np.concatenate([top_q, 1 - top_q.sum(-1, keepdims=True)], -1),
    )


def finite_differences(fn, x, step=1e-5):
    """The gradient of a float64 function from arrays to numbers."""
    x = np.asarray(x, "float64")
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[index] += step
        down[index] -= step
        gradient[index] = (fn(up) - fn(down)) / (2 * step)
    return gradient


def gradient(fn, x):
    """The gradient of a backend function from tensors to numbers."""
    x = np.asarray(x, "float32")
    if keras.backend.backend() == "jax":
        import jax

        return np.asarray(jax.grad(fn)(x))
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        x = tf.convert_to_tensor(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = fn(x)
        return tape.gradient(y, x).numpy()
    x = keras.ops.convert_to_tensor(x).requires_grad_()
    fn(x).backward()
    return keras.ops.convert_to_numpy(x.grad)
