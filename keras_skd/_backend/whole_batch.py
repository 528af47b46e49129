"""The functions on rows of other processes, where a step sees all rows."""

import contextlib


def is_first_process():
    return True


def total_rows(count):
    return count


def all_rows(values):
    return values


def own_rows(values):
    return values


def sum_of_all(x):
    return x


def share_of_sum(x):
    return x


@contextlib.contextmanager
def own_seeds(variables):
    yield
