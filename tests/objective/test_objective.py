import keras
import numpy as np
import pytest
from keras import ops

import keras_skd
from keras_skd import losses
from keras_skd._objective.objective import Objective
from keras_skd.decoding import CachedCausalLM
from tests.support.causal_lms import causal_lm


@pytest.fixture(scope="module")
def models():
    return [
        CachedCausalLM(causal_lm("llama", seed=seed, num_layers=1))
        for seed in (1, 2)
    ]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"chunk_size": 0}, ValueError, ["`loss_chunk_size`", "0"]),
        ({"chunk_size": -1}, ValueError, ["`loss_chunk_size`", "-1"]),
        ({"chunk_size": 1.5}, TypeError, ["`loss_chunk_size`", "1.5"]),
        ({"chunk_size": "a"}, TypeError, ["`loss_chunk_size`", "'a'"]),
        ({"chunk_size": True}, TypeError, ["`loss_chunk_size`", "True"]),
        ({"loss": "mse"}, ValueError, ["`loss`", "'mse'"]),
        (
            {"loss": losses.ForwardKL(reduction=None)},
            ValueError,
            ["`loss`", "forward_kl", "reduction=None"],
        ),
        (
            {"hidden_state_loss": "hidden_state_l1"},
            TypeError,
            ["`hidden_state_loss`", "'hidden_state_l1'"],
        ),
    ],
    ids=str,
)
def test_bad_arguments(models, arguments, error, words):
    arguments = {"loss": "forward_kl", "hidden_state_loss": None, **arguments}
    teacher, student = models
    with pytest.raises(error) as info:
        Objective(teacher=teacher, student=student, **arguments)
    for word in words:
        assert word in str(info.value)


def _rollout():
    sources = np.array([[1, 1, 2, 3, 2, 0], [1, 2, 2, 3, 3, 3]], "int32")
    token_ids = np.random.default_rng(0).integers(0, 32, sources.shape)
    rollout = {
        "token_ids": token_ids.astype("int32"),
        "padding_mask": sources > 0,
        "response_mask": sources > 1,
        "sources": sources,
    }
    return {k: ops.convert_to_tensor(v) for k, v in rollout.items()}


def _read(objective, rollout):
    return objective.read_student(rollout["token_ids"], rollout["padding_mask"])


def _loss(objective, outputs, rollout):
    return float(objective(outputs, rollout, training=False)[0])


def test_the_teacher_reads_only_what_is_needed(models):
    teacher, student = models
    rollout = _rollout()
    states = teacher.hidden_states(
        rollout["token_ids"], rollout["padding_mask"]
    )
    objective = Objective("forward_kl", None, teacher, student)
    outputs = _read(objective, rollout)
    assert set(outputs) == {"hidden_states"}
    value = _loss(objective, outputs, rollout)
    reads = []

    class Counted(CachedCausalLM):
        def hidden_states(self, *args, **kwargs):
            reads.append(args)
            return super().hidden_states(*args, **kwargs)

    counted = Counted(teacher.model)
    # After speculation, the teacher's states are known.
    known = {**rollout, "teacher_hidden_states": states}
    objective = Objective("forward_kl", None, counted, student)
    assert _loss(objective, outputs, known) == pytest.approx(value, rel=1e-5)
    objective = Objective("cross_entropy", None, counted, student)
    objective(outputs, rollout, training=True)
    assert not reads
    objective = Objective("forward_kl", None, counted, student)
    objective(outputs, rollout, training=False)
    assert len(reads) == 1


@pytest.mark.parametrize(
    "loss", ["forward_kl", "cross_entropy", "generalized_jsd"]
)
def test_kl_is_the_same_measure_for_every_loss(models, loss):
    teacher, student = models
    rollout = _rollout()
    objective = Objective(loss, None, teacher, student)
    outputs = _read(objective, rollout)
    p, q = (
        ops.convert_to_numpy(
            m.logits(m.hidden_states(rollout["token_ids"], rollout["sources"]))
        ).astype("float64")
        for m in models
    )
    p, q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (p, q))
    kl = (np.exp(p) * (p - q)).sum(-1)[:, :-1]
    mask = ops.convert_to_numpy(rollout["response_mask"])[:, 1:]
    expected = np.mean((kl * mask).sum(1) / mask.sum(1))
    _, measured = objective(outputs, rollout, training=False)
    assert expected > 1e-3
    assert float(measured["mean_kl"]) == pytest.approx(expected, rel=1e-4)
    _, measured = objective(outputs, rollout, training=True)
    assert not measured


def test_the_default_loss_is_the_kl(models):
    teacher, student = models
    projected = []

    class Counted(CachedCausalLM):
        def logits(self, hidden_states):
            projected.append(self)
            return super().logits(hidden_states)

    counted = Counted(student.model)
    counts = []
    for loss in ("forward_kl", losses.ForwardKL(temperature=2.0)):
        objective = Objective(loss, None, teacher, counted)
        outputs = _read(objective, _rollout())
        projected.clear()
        value, measured = objective(outputs, _rollout(), training=False)
        counts.append(len(projected))
    assert counts[1] == 2 * counts[0] > 0
    assert float(measured["mean_kl"]) != float(value)


def test_without_a_teacher(models):
    teacher, student = models
    rollout = _rollout()
    objective = Objective(None, None, None, student)
    outputs = _read(objective, rollout)
    loss, measured = objective(outputs, rollout, training=False)
    assert not measured
    with_one = Objective("cross_entropy", None, teacher, student)
    assert float(loss) == pytest.approx(_loss(with_one, outputs, rollout))


def test_layers_are_compared_where_they_predict_the_response(models):
    teacher, student = models
    rollout = _rollout()
    layer = losses.HiddenStateL1(["transformer_layer_0"], weight=0.5)
    alone = Objective("forward_kl", None, teacher, student)
    both = Objective("forward_kl", layer, teacher, student)
    outputs = _read(both, rollout)
    (ours,) = outputs["layers"]
    inputs = {k: rollout[k] for k in ("token_ids", "padding_mask")}
    theirs = keras.Model(
        teacher.model.backbone.input,
        teacher.model.backbone.get_layer("transformer_layer_0").output,
    )(inputs)
    mask = ops.convert_to_numpy(rollout["response_mask"])
    predicts = np.pad(mask[:, 1:], [(0, 0), (0, 1)])
    expected = float(layer([theirs], [ours], predicts))
    values = [_loss(o, outputs, rollout) for o in (alone, both)]
    assert expected > 0.1
    assert values[1] - values[0] == pytest.approx(expected, rel=1e-4)


def test_a_refused_compile_changes_nothing(models):
    teacher, student = (m.model for m in models)
    distiller = keras_skd.Distiller(teacher, student, rollout="supervised")
    distiller.compile(optimizer="adam", loss="reverse_kl")
    batch = {k: v for k, v in _rollout().items() if k != "sources"}
    batch = {k: ops.convert_to_numpy(v) for k, v in batch.items()}
    before = distiller.evaluate(batch, batch_size=2, verbose=0)
    with pytest.raises(ValueError, match="loss_chunk_size"):
        distiller.compile(loss="cross_entropy", loss_chunk_size=0)
    with pytest.raises(ValueError):
        distiller.compile(optimizer="no_such", loss="cross_entropy")
    assert distiller.evaluate(batch, batch_size=2, verbose=0) == before
