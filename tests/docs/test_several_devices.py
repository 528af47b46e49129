"""The guide on several devices, on two virtual ones, which JAX has.

The examples run in a process of their own, since the number of devices is read
when JAX starts.
"""

import json
import os
import subprocess
import sys

import keras
import pytest

from tests.docs import test_code_blocks

GUIDE = test_code_blocks.ROOT / "docs" / "guides" / "devices.md"
DEVICES = "--xla_force_host_platform_device_count=2"


def run_guide():
    """Runs the guide. Prints the logs of each training, with what was cut."""
    test_code_blocks.use_tiny_presets(pytest.MonkeyPatch())
    section = GUIDE.read_text().split("\n## JAX\n")[1].split("\n## ")[0]
    rows, weights, look, *_ = (
        match["code"] for match in test_code_blocks.BLOCK.finditer(section)
    )
    call = "keras.distribution.set_distribution"
    line = f"{call}(keras.distribution.DataParallel())"
    assert line in rows
    results = {}
    for name, code in {
        "one device": rows.replace(line, ""),
        "rows": rows,
        "weights": weights + look,
    }.items():
        script = {}
        exec(compile(code, str(GUIDE), "exec"), script)
        results[name] = {
            "logs": script["history"].history,
            "devices": [
                len(weight.value.sharding.device_set)
                for weight in script["student"].weights
            ],
            "cut": sum(
                not weight.value.sharding.is_fully_replicated
                for weight in script["student"].weights
            ),
        }
    print("\n" + json.dumps(results))


@pytest.mark.slow
@pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="Keras distributes on JAX alone"
)
def test_several_devices_give_the_numbers_of_one():
    output = subprocess.run(
        [sys.executable, "-m", "tests.docs.test_several_devices"],
        check=True,
        cwd=test_code_blocks.ROOT,
        env={
            **os.environ,
            "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {DEVICES}",
        },
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    results = json.loads(output.splitlines()[-1])
    one = results.pop("one device")
    assert set(one["devices"]) == {1}
    for name, result in results.items():
        assert set(result["devices"]) == {2}, name
        for key, values in one["logs"].items():
            assert result["logs"][key] == pytest.approx(values, rel=1e-5), key
    assert results["rows"]["cut"] == 0
    # The embedding, and three kernels of the one layer.
    assert results["weights"]["cut"] == 4


if __name__ == "__main__":
    run_guide()
