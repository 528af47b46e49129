"""What has to be set before a backend is imported."""

import os

# Tiny models compile for much longer than they run: let XLA's code generator
# not optimise.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
# And their arithmetic is not worth a second thread: on a busy machine, waiting
# for one another takes PyTorch's threads ten times as long as the work.
os.environ.setdefault("OMP_NUM_THREADS", "1")
