"""The losses within Keras: compiled steps, unknown batch sizes, saving."""

import keras
import numpy as np
import pytest

from keras_skd import losses


def _fit(loss, epochs=10):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(10, 5, 8)).astype("float32")
    teacher_logits = (x @ rng.normal(size=(8, 12))).astype("float32")
    mask = np.arange(5) < rng.integers(0, 6, (10, 1))
    # Tokens outside the mask must not be learned.
    teacher_logits[~mask] = np.nan
    model = keras.Sequential([keras.Input((None, 8)), keras.layers.Dense(12)])
    model.compile(optimizer=keras.optimizers.Adam(0.1), loss=loss)
    # 10 rows in batches of 4: the last one is smaller.
    history = model.fit(
        x,
        teacher_logits,
        sample_weight=mask.astype("float32"),
        batch_size=4,
        epochs=epochs,
        shuffle=False,
        verbose=0,
    )
    return model, history.history["loss"]


@pytest.mark.parametrize(
    "loss",
    [
        losses.ForwardKL(top_k_targets=3, reduction="token_mean"),
        losses.AdaptiveKL(),
        losses.WeightedSum(["generalized_jsd", "total_variation"]),
    ],
    ids=["top_k_targets", "adaptive_kl", "weighted_sum"],
)
def test_fit(loss):
    _, history = _fit(loss)
    assert np.isfinite(history).all()
    assert history[-1] < 0.5 * history[0]


def test_saved_model_keeps_its_loss(tmp_path):
    model, _ = _fit(losses.SkewKL(alpha=0.25, reduction="sum"), epochs=1)
    model.save(tmp_path / "model.keras")
    restored = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(restored.loss, losses.SkewKL)
    assert restored.loss.get_config() == model.loss.get_config()
