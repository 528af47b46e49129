"""A lower bound of a step's time, from bytes and floating-point operations.

Two rates are measured in the same run: how fast a product of one row reads
weights, and how fast a large product computes. A pass then takes at least as
long as reading the weights once, and as its products. No cache is read, nothing
is sampled, and no weight is updated.
"""

import time

import numpy as np
from shapes import SEED

ONE_ROW = "bound: a product of one row"
LARGE = "bound: a large product"
LARGE_SIZE = 2048
NUM_DRAFTS = 4
BYTES = {"float32": 4, "bfloat16": 2}


def rates(shape):
    """Measures both rates, with weights of the dtype of the teacher.

    The weights of the first are as large as the teacher's head.
    """
    from keras import ops  # The table is made without it.

    rng = np.random.default_rng(SEED)

    def tensor(*size):
        return ops.convert_to_tensor(rng.normal(size=size), shape.dtype)

    size = shape.vocabulary_size, shape.teacher.hidden_dim
    head, row = tensor(*size), tensor(size[1], 1)
    yield (
        ONE_ROW,
        _timed(
            lambda: ops.matmul(head, row),
            gigabytes=np.prod(size) * _bytes(shape),
        ),
    )
    square = tensor(LARGE_SIZE, LARGE_SIZE)
    yield (
        LARGE,
        _timed(lambda: ops.matmul(square, square), gigaflops=2 * LARGE_SIZE**3),
    )


def _timed(multiply, calls=10, **amount):
    """A measurement of how much of something products do in a second."""
    ((unit, each),) = amount.items()

    def measure():
        start = time.perf_counter()
        for _ in range(calls):
            product = multiply()
        float(product[0, 0])  # Waits for the last.
        seconds = time.perf_counter() - start
        return {f"{unit}_per_second": float(calls * each / seconds / 1e9)}

    return measure


def seconds(shape, gigabytes_per_second, gigaflops_per_second):
    """The bounds of the steps, by the names of their measurements."""
    rows, new = shape.batch_size, shape.num_new_tokens

    def products(model, tokens, predicted):
        """Those of the layers for all tokens, of the head for some."""
        layers, head = shape.num_weights(model)
        operations = 2 * (layers * tokens + head * predicted)
        return operations / gigaflops_per_second / 1e9

    def a_pass(model, tokens, predicted):
        num_bytes = sum(shape.num_weights(model)) * _bytes(shape)
        read = num_bytes / gigabytes_per_second / 1e9
        return max(read, products(model, tokens, predicted))

    def prompts(model):
        return a_pass(model, rows * shape.prompt_length, rows)

    texts = rows * shape.sequence_length, rows * new
    drafts = new * a_pass(shape.student, rows, rows)
    # Forward, and two products for each in the backward pass.
    learn = 3 * products(shape.student, *texts)
    step = prompts(shape.student) + drafts + learn
    drafted = NUM_DRAFTS * rows
    verification = a_pass(shape.teacher, drafted, drafted)
    num_rounds = -(-new // NUM_DRAFTS)
    return {
        "on-policy step": step + products(shape.teacher, *texts),
        "SKD step, every draft accepted": step
        + prompts(shape.teacher)
        + num_rounds * verification,
    }


def _bytes(shape):
    return BYTES[shape.dtype]
