"""Settings that must precede the import of a backend."""

import os

import pytest

# Tiny models compile for much longer than they run. XLA need not optimise its
# code, and its older code generator for CPUs takes half as long as the default.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false",
)
# Nor is their arithmetic worth a second thread: on a busy machine, PyTorch's
# threads wait for each other ten times as long as they work.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def one_draft_length(monkeypatch):
    """Compiles one width of the teacher's pass in place of three.

    For tests that use the default rollout, and are not about it.
    """
    # After the settings above.
    from keras_skd import rollouts

    monkeypatch.setattr(rollouts._speculative, "_CHOICES", (2,))
