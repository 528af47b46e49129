"""The three backends write the same and learn the same.

Each of them trains in its own process, from the same weights, and reports its
rollouts, losses and final weights.
"""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

BACKENDS = ("jax", "tensorflow", "torch")
ROOT = pathlib.Path(__file__).parent.parent
LENGTH = 14
STOP = 5


def train():
    """Three steps of speculative distillation, with nothing random in them."""
    import keras_skd
    from tests.support import writing

    student = writing.random_causal_lm("llama", seed=1, num_layers=1)
    teacher = writing.random_causal_lm("llama", seed=2)
    distiller = keras_skd.Distiller(
        teacher,
        student,
        rollout=keras_skd.rollouts.Speculative(
            acceptance=keras_skd.acceptance.TopK(12),
            num_speculative_tokens=3,
            student_sampler="greedy",
            teacher_sampler="greedy",
        ),
        stop_token_ids=(STOP,),
    )
    distiller.compile(optimizer=keras.optimizers.SGD(0.3))
    prompts = writing.prompts([2, 5, 1, 7], LENGTH)
    steps = []

    class Observe(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            rollout = distiller.generate_rollout(prompts)
            steps.append({k: rollout[k].tolist() for k in rollout})

    history = distiller.fit(
        prompts, batch_size=4, epochs=3, callbacks=[Observe()], verbose=0
    )
    weights = [keras.ops.convert_to_numpy(w) for w in student.weights]
    return {
        "steps": steps,
        "history": history.history,
        "weights": np.concatenate([w.ravel() for w in weights]).tolist(),
    }


@pytest.mark.slow
@pytest.mark.skipif(
    keras.config.backend() != "jax",
    reason="trains on all backends, once: with KERAS_BACKEND=jax",
)
def test_backends_agree():
    for name in BACKENDS:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-m", "tests.test_backends_agree"],
            cwd=ROOT,
            env={**os.environ, "KERAS_BACKEND": name, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in BACKENDS
    }
    results = {}
    for name, process in processes.items():
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, name
        results[name] = json.loads(output.splitlines()[-1])

    expected = results["jax"]
    sources = np.array([step["sources"] for step in expected["steps"]])
    assert {2, 3} <= set(sources.ravel())
    # Some rows are full, and some have stopped before.
    lengths = (sources > 0).sum(axis=2)
    assert (lengths == LENGTH).any() and (lengths < LENGTH).any()
    losses = expected["history"]["loss"]
    assert losses[2] < losses[0]
    for name in ("tensorflow", "torch"):
        result = results[name]
        assert result["steps"] == expected["steps"], name
        assert set(result["history"]) == set(expected["history"])
        for key, values in expected["history"].items():
            np.testing.assert_allclose(
                result["history"][key], values, rtol=1e-4, err_msg=key
            )
        np.testing.assert_allclose(
            result["weights"], expected["weights"], atol=1e-4
        )


if __name__ == "__main__":
    print(json.dumps(train()))
