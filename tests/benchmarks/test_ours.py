"""The benchmarks' code at the toy shape. Times are not checked."""

import importlib
import json
import pathlib

import keras
import keras_hub
import pytest

RUN = dict(date="", commits=[""], processor="", threads=2, repeats=3)
BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """Imports a script as when it runs, with its siblings."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


@pytest.mark.slow
def test_a_rollout_of_given_acceptance_and_length(benchmark):
    ours, shapes = benchmark("ours"), benchmark("shapes")
    shape = shapes.SHAPES["toy"]
    sampler = ours.StopsAfter(6)
    rollout = ours.Speculative(
        acceptance=ours.Controlled(),
        num_speculative_tokens=3,
        student_sampler=sampler,
        # It would stop where it happened to draw the stop token.
        teacher_sampler=ours.StopsAfter(1000),
    )
    distiller = ours.Bench(shape).distiller(rollout, (shapes.STOP_ID,))
    measure = ours.from_zero(
        sampler,
        ours.write(
            distiller,
            ours.make_batch(shape),
            also=["acceptance_rate", "tokens_per_pass"],
        ),
    )
    rollout.acceptance.probability.assign(1.0)
    record = measure()
    assert record["acceptance_rate"] == 1.0
    assert record["new_tokens"] == 6.0
    assert record["tokens_per_pass"] == 3.0

    rollout.acceptance.probability.assign(0.0)
    record = measure()
    assert record["acceptance_rate"] == 0.0
    assert record["tokens_per_pass"] == 1.0


def test_a_part_writes_records_that_make_a_table(benchmark, tmp_path, capsys):
    ours, table = benchmark("ours"), benchmark("table")
    ours.run("toy", only=["generate"], repeats=3)
    lines = capsys.readouterr().out
    records = [json.loads(line) for line in lines.splitlines()]
    phases = ["first", "warm-up", "counted", "counted", "counted"]
    assert [record["phase"] for record in records] == phases

    backend = keras.config.backend()
    (tmp_path / f"toy-{backend}.jsonl").write_text(lines)
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    rendered = table.render(tmp_path)
    assert "| KerasHub generate: s |" in rendered
    assert "Failed" not in rendered


def test_the_shapes_of_an_accelerator_have_a_bound(benchmark, tmp_path, capsys):
    ours, table = benchmark("ours"), benchmark("table")
    ours.run("toy_gemma3", only=["on_policy", "bound"], repeats=1)
    backend = keras.config.backend()
    path = tmp_path / f"toy_gemma3-{backend}.jsonl"
    path.write_text(capsys.readouterr().out)
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    rendered = table.render(tmp_path)
    assert "ratio in s: on-policy step / bound: on-policy step" in rendered
    assert "Failed" not in rendered


def test_a_bound_is_the_sum_of_its_passes(benchmark):
    bounds, shapes = benchmark("bounds"), benchmark("shapes")
    model = shapes.Llama(1, 4, 2, 1, 8)
    shape = shapes.Shape(10, model, model, 2, 3, num_new_tokens=8)
    # Queries and outputs, keys and values, the MLP; the head.
    layers, head = 2 * 4 * 4 + 2 * 2 * 4 + 3 * 8 * 4, 10 * 4
    assert shape.num_weights(model) == (layers, head)

    # Where products take no time, 9 passes of the student and 3 of the teacher.
    read = 4 * (layers + head) / 1e9
    steps = bounds.seconds(shape, 1.0, float("inf"))
    assert steps["on-policy step"] == pytest.approx(9 * read)
    assert steps["SKD step, every draft accepted"] == pytest.approx(12 * read)

    # Where reading takes none: two rows of 11 tokens, 8 of them written.
    steps = bounds.seconds(shape, float("inf"), 1.0)
    once = 2 * (2 * 11 * layers + 2 * 8 * head) / 1e9
    prompts = 2 * (2 * 3 * layers + 2 * head) / 1e9
    decoded = prompts + 2 * 16 * (layers + head) / 1e9
    assert steps["on-policy step"] == pytest.approx(4 * once + decoded)
    assert steps["SKD step, every draft accepted"] == pytest.approx(
        3 * once + 2 * decoded
    )


@pytest.mark.skipif(
    keras.config.backend() == "tensorflow", reason="not profiled"
)
def test_a_profile_is_written(benchmark, tmp_path):
    x = keras.ops.ones((4, 4))
    calls = []

    def measure():
        calls.append(keras.ops.convert_to_numpy(keras.ops.matmul(x, x)))

    folder = benchmark("profiles").profile(measure, tmp_path, "product")
    assert len(calls) == 3
    assert any(path.is_file() for path in folder.rglob("*"))


def test_a_measurement_that_fails_leaves_the_others(benchmark, capsys):
    timing = benchmark("timing")

    def fail():
        raise ValueError("out of luck")

    measurements = {"bad": fail, "good": lambda: {"seconds": 1.0}}
    timing.interleave(measurements, repeats=1)
    lines = capsys.readouterr().out.splitlines()
    records = [json.loads(line) for line in lines]
    assert [(r["measurement"], r["phase"]) for r in records] == [
        ("bad", "failed"),
        ("good", "first"),
        ("good", "warm-up"),
        ("good", "counted"),
    ]


def test_the_table_computes_what_is_divided_by_what(benchmark, tmp_path):
    table = benchmark("table")

    def record(backend, measurement, seconds, phase="counted"):
        return json.dumps(
            dict(
                shape="small",
                backend=backend,
                measurement=measurement,
                phase=phase,
                seconds=seconds,
            )
        )

    ours = [record("jax", "on-policy step", s) for s in (2.0, 1.0, 4.0)]
    ours.append(record("jax", "on-policy step", 50.0, phase="first"))
    ours += [record("jax", part, 0.5) for part in table.FLOOR for _ in range(3)]
    peers = [record("peers", table.TRL_STEP, s) for s in (6.0, 5.0, 7.0)]
    (tmp_path / "small-jax.jsonl").write_text("\n".join(ours))
    (tmp_path / "small-trl.jsonl").write_text("\n".join(peers))
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    rows = {}
    for line in table.render(tmp_path).splitlines():
        if line.startswith("| "):
            name, *cells = line.strip("| ").split(" | ")
            rows[name] = [cell.strip() for cell in cells]
    assert rows["on-policy step: s"][0] == "2 (1 to 4)"
    assert rows["on-policy step, the first: s"][0] == "50"
    assert rows[f"{table.FLOOR_SUM}: s"][0] == "2"
    ratio = f"ratio in s: {table.TRL_STEP} / on-policy step"
    assert rows[ratio][0] == "3.00"
    ratio = f"ratio in s: on-policy step / {table.FLOOR_SUM}"
    assert rows[ratio][0] == "1.00"


def test_a_teacher_in_bfloat16_is_near_that_in_float32(benchmark, monkeypatch):
    ours, shapes = benchmark("ours"), benchmark("shapes")
    teacher_dtypes = benchmark("teacher_dtypes")
    backbone_class = keras_hub.models.LlamaBackbone
    # Undoes what `mend_backbone_config` does to the class.
    monkeypatch.setattr(backbone_class, "get_config", backbone_class.get_config)
    teacher_dtypes.smollm2.mend_backbone_config()
    shape = shapes.SHAPES["toy"]
    bench = ours.Bench(shape)
    measurements = teacher_dtypes.measurements(
        bench.teacher,
        bench.student,
        ours.make_batch(shape),
        ["float32", "bfloat16"],
    )
    records = [measure() for _, measure in measurements]
    assert [record["acceptance_rate"] for record in records[::2]] == [1.0, 1.0]
    assert records[0]["kl"] == 0.0
    assert 0.0 < records[2]["kl"] < 0.01
