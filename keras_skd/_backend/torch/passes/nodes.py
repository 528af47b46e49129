"""Properties of a node. `meta["val"]` is its value during tracing."""

import torch


def shape(node):
    return node.meta["val"].shape


def is_random(node):
    tags = getattr(node.target, "tags", ())
    return torch.Tag.nondeterministic_seeded in tags
