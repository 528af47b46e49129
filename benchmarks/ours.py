"""Measures keras_skd, and KerasHub alone, on one backend at one shape.

    KERAS_BACKEND=jax python benchmarks/ours.py --shape small --only skd

`run.py` starts it once for each backend and shape. Models are randomly
initialised and no token ends a response, so that every rollout writes all of
its tokens.
"""

import argparse
import dataclasses
import time

import bounds
import keras
import keras_hub
import numpy as np
from keras import ops
from shapes import PADDING_ID
from shapes import SEED
from shapes import SHAPES
from shapes import STOP_ID
from shapes import Gemma3
from timing import emit_versions
from timing import interleave
from timing import timed

import keras_skd
from keras_skd import Source
from keras_skd.acceptance import TopK
from keras_skd.rollouts import OnPolicy
from keras_skd.rollouts import Speculative


class Controlled(keras_skd.acceptance.TeacherRule):
    """Accepts a draft with a given probability, whatever its logits.

    The probability is a variable: one compiled rollout serves all values.
    """

    def __init__(self, probability=0.5):
        self.probability = keras.Variable(
            probability, trainable=False, dtype="float32"
        )
        self.seed_generator = keras.random.SeedGenerator(SEED)

    @property
    def variables(self):
        return [self.seed_generator.state, self.probability]

    def accept(self, token_ids, teacher_logits, training_step=0):
        uniform = keras.random.uniform(
            ops.shape(token_ids), seed=self.seed_generator
        )
        return uniform < self.probability


class StopsAfter(keras_hub.samplers.RandomSampler):
    """Samples, but returns the stop token in call `num_tokens`.

    Calls are counted from when `count` was set to 0.
    """

    def __init__(self, num_tokens, seed=SEED):
        super().__init__(seed=seed)
        self.num_tokens = num_tokens
        self.count = keras.Variable(0, trainable=False, dtype="int32")

    @property
    def variables(self):
        return [*super().variables, self.count]

    def get_next_token(self, probabilities):
        token = super().get_next_token(probabilities)
        self.count.assign(self.count + 1)
        token = ops.where(token == STOP_ID, STOP_ID + 1, token)
        return ops.where(self.count >= self.num_tokens, STOP_ID, token)


class Clock(keras.callbacks.Callback):
    """Times the last training step of `fit`, up to its last operation."""

    def on_train_batch_begin(self, batch, logs=None):
        self._start = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        float(logs["loss"])  # Waits for a loss that is still being computed.
        self.seconds = time.perf_counter() - self._start


class EpochClock(keras.callbacks.Callback):
    """Times the last epoch of `fit`, up to its last operation."""

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        float(logs["loss"])
        self.seconds = time.perf_counter() - self._start


class StopsAtRandom(keras_hub.samplers.RandomSampler):
    """Samples, but returns the stop token with a probability of one in `mean`.

    So lengths are as uneven as those of answers in chats.
    """

    def __init__(self, mean, seed=SEED):
        super().__init__(seed=seed)
        self.mean = mean

    def get_next_token(self, probabilities):
        token = super().get_next_token(probabilities)
        token = ops.where(token == STOP_ID, STOP_ID + 1, token)
        uniform = keras.random.uniform(
            ops.shape(token), seed=self.seed_generator
        )
        return ops.where(uniform * self.mean < 1, STOP_ID, token)


class Bench:
    """The models and the prompts of a shape."""

    def __init__(self, shape):
        self.shape = shape
        keras.utils.set_random_seed(SEED)
        is_mixed = shape.dtype != "float32"
        self.teacher = make_model(
            shape.teacher, shape.vocabulary_size, shape.dtype
        )
        self.student = make_model(
            shape.student,
            shape.vocabulary_size,
            f"mixed_{shape.dtype}" if is_mixed else "float32",
        )

    def distiller(self, rollout, stop_token_ids=None, **kwargs):
        distiller = keras_skd.Distiller(
            self.teacher,
            self.student,
            rollout=rollout,
            stop_token_ids=stop_token_ids,
            seed=SEED,
        )
        # A small rate: the models stay as random as they are.
        kwargs = {"optimizer": keras.optimizers.Adam(1e-5), **kwargs}
        distiller.compile(loss="forward_kl", **kwargs)
        return distiller


def make_model(size, vocabulary_size, dtype="float32"):
    """A randomly initialised model without a preprocessor."""
    models = keras_hub.models
    arguments = {
        "vocabulary_size": vocabulary_size,
        "dtype": dtype,
        **dataclasses.asdict(size),
    }
    if isinstance(size, Gemma3):
        backbone = models.Gemma3Backbone(image_size=None, **arguments)
        return models.Gemma3CausalLM(backbone=backbone, preprocessor=None)
    backbone = models.LlamaBackbone(tie_word_embeddings=True, **arguments)
    return models.LlamaCausalLM(backbone=backbone, preprocessor=None)


def make_batch(shape, sequence_length=None):
    """The prompts of a shape, padded to `sequence_length`."""
    size = shape.batch_size, sequence_length or shape.sequence_length
    token_ids = np.full(size, PADDING_ID, "int32")
    token_ids[:, : shape.prompt_length] = shape.prompts()
    padding_mask = np.zeros(size, bool)
    padding_mask[:, : shape.prompt_length] = True
    return {"token_ids": token_ids, "padding_mask": padding_mask}


# Measurements are callables that return a record.


def step(distiller, batch):
    """One step of `fit`: rollout and training."""
    clock = Clock()

    def measure():
        distiller.fit(
            batch,
            batch_size=len(batch["token_ids"]),
            callbacks=[clock],
            verbose=0,
        )
        return {"seconds": clock.seconds}

    return measure


def write(distiller, batch, also=()):
    """A rollout alone.

    `also` names what else to record: `"acceptance_rate"`,
    `"tokens_per_row_and_pass"`, which counts the passes of the teacher in which
    a row was being written, or `"tokens_per_pass"`, which counts all.
    """
    batch = {k: ops.convert_to_tensor(v) for k, v in batch.items()}

    def measure():
        start = time.perf_counter()
        written = distiller.rollout_function(batch)
        who = ops.convert_to_numpy(written["sources"])
        seconds = time.perf_counter() - start
        student = np.sum(who == Source.STUDENT)
        teacher = np.sum(who == Source.TEACHER)
        values = {"acceptance_rate": student / (student + teacher)}
        new_tokens = (student + teacher) / len(who)
        if "num_teacher_calls" in written:
            passes = ops.convert_to_numpy(written["num_teacher_calls"])
            values["tokens_per_row_and_pass"] = new_tokens / passes.mean()
            values["tokens_per_pass"] = new_tokens / passes.max()
        return {
            "seconds": seconds,
            "new_tokens": float(new_tokens),
            **{key: float(values[key]) for key in also},
        }

    return measure


def generation(shape, sampler, batch, stop_token_ids=None):
    """KerasHub's `generate` of a student."""
    model = make_model(shape.student, shape.vocabulary_size)
    model.compile(sampler=sampler)
    return timed(
        lambda: model.generate(dict(batch), stop_token_ids=stop_token_ids)
    )


def at_acceptance(probability, distiller, batch):
    """A rollout of a `Controlled` distiller, one of several that share it.

    Each has a state of its own: seeds, and the acceptance rate seen so far.
    """
    measure = write(distiller, batch)
    variables = distiller.rollout.variables
    state = [ops.convert_to_numpy(v) for v in variables]

    def measure_here():
        for variable, value in zip(variables, state):
            variable.assign(value)
        distiller.rollout.acceptance.probability.assign(probability)
        record = measure()
        state[:] = [ops.convert_to_numpy(v) for v in variables]
        return record

    return measure_here


def from_zero(sampler, measure, start=0):
    """What a `StopsAfter` sampler stops, whose count starts at 0 or later."""

    def measure_here():
        sampler.count.assign(start)
        return measure()

    return measure_here


# Parts: generators of names and measurements.


def skd(bench):
    """Speculative Knowledge Distillation, at both ends of acceptance."""
    batch = make_batch(bench.shape)
    for name, k in (
        ("every draft accepted", bench.shape.vocabulary_size),
        ("K = 25", 25),
    ):
        distiller = bench.distiller(Speculative(acceptance=TopK(k)))
        yield f"SKD step, {name}", step(distiller, batch)
        yield (
            f"SKD rollout, {name}",
            write(distiller, batch, also=["acceptance_rate"]),
        )
    distiller = bench.distiller(Speculative(decoding="lockstep"))
    yield "SKD rollout in lock-step", write(distiller, batch)


def on_policy(bench):
    """The student writes alone, as in GKD with lambda = 1."""
    batch = make_batch(bench.shape)
    distiller = bench.distiller(OnPolicy())
    yield "on-policy step", step(distiller, batch)
    yield "on-policy rollout", write(distiller, batch)


def generate(bench):
    """KerasHub's own `generate`, of the student."""
    batch = make_batch(bench.shape)
    yield "KerasHub generate", generation(bench.shape, "random", batch)


def acceptance(bench):
    """The time of a rollout at several acceptance rates."""
    batch = make_batch(bench.shape)
    for name, arguments in (
        ("", {}),
        (", 2 drafts", {"num_speculative_tokens": 2}),
        (" in lock-step", {"decoding": "lockstep"}),
    ):
        distiller = bench.distiller(
            Speculative(acceptance=Controlled(), **arguments)
        )
        for probability in (0.1, 0.3, 0.9, 1.0):
            yield (
                f"SKD rollout{name}, {probability:.0%} accepted",
                at_acceptance(probability, distiller, batch),
            )


def passes(bench):
    """The tokens that each row gains in a teacher pass, by batch size."""
    distiller = bench.distiller(
        Speculative(acceptance=Controlled(0.9), num_speculative_tokens=8)
    )
    for batch_size in (1, 2, 4, 8, 16, 32, 64):
        shape = dataclasses.replace(bench.shape, batch_size=batch_size)
        yield (
            f"8 drafts, 90% accepted, batch {batch_size}",
            write(
                distiller,
                make_batch(shape),
                also=["tokens_per_row_and_pass", "tokens_per_pass"],
            ),
        )


def length(bench):
    """The same number of new tokens, in short and in long sequences."""
    shape = bench.shape
    # If every draft is accepted, the student's n-th token is the row's n-th.
    everything = TopK(shape.vocabulary_size)
    for sequence_length in (128, 1024, 4096):
        batch = make_batch(shape, sequence_length)
        samplers = [StopsAfter(shape.num_new_tokens) for _ in range(3)]
        rollouts = {
            "SKD": Speculative(everything, student_sampler=samplers[0]),
            "on-policy": OnPolicy(samplers[1]),
        }
        measurements = {
            f"{name} rollout": write(
                bench.distiller(rollout, stop_token_ids=(STOP_ID,)), batch
            )
            for name, rollout in rollouts.items()
        }
        measurements["KerasHub generate"] = generation(
            shape, samplers[2], batch, stop_token_ids=(STOP_ID,)
        )
        for sampler, (name, measure) in zip(samplers, measurements.items()):
            yield (
                f"{name}, sequence_length {sequence_length:,}",
                from_zero(sampler, measure),
            )


def position(bench):
    """64 tokens and one token, after short and after long prompts.

    The difference is what 63 tokens take at these positions.
    """
    num_tokens = bench.shape.num_new_tokens
    everything = TopK(bench.shape.vocabulary_size)
    for prompt_length in (num_tokens, 16 * num_tokens - num_tokens // 2):
        shape = dataclasses.replace(bench.shape, prompt_length=prompt_length)
        batch = make_batch(shape)
        samplers = [StopsAfter(num_tokens) for _ in range(2)]
        rollouts = {
            "SKD": Speculative(everything, student_sampler=samplers[0]),
            "on-policy": OnPolicy(samplers[1]),
        }
        for sampler, (name, rollout) in zip(samplers, rollouts.items()):
            distiller = bench.distiller(rollout, stop_token_ids=(STOP_ID,))
            measure = write(distiller, batch)
            for tokens in (num_tokens, 1):
                yield (
                    f"{name} rollout, {tokens} tokens after {prompt_length}",
                    from_zero(sampler, measure, num_tokens - tokens),
                )


def update(distiller, batch, batch_size):
    """An update of all rows of a batch, as an epoch of `fit`."""
    clock = EpochClock()

    def measure():
        history = distiller.fit(
            batch, batch_size=batch_size, callbacks=[clock], verbose=0
        ).history
        return {
            "seconds": clock.seconds,
            "new_tokens": float(history["response_length"][0]),
        }

    return measure


def updates(bench, rollout, batch, stop_token_ids=None):
    """An update of four batches: written one by one, and all at once."""
    rows, size = len(batch["token_ids"]), bench.shape.batch_size
    one_by_one = bench.distiller(
        rollout,
        stop_token_ids,
        optimizer=keras.optimizers.Adam(
            1e-5, gradient_accumulation_steps=rows // size
        ),
    )
    yield ", batch by batch", update(one_by_one, batch, size)
    at_once = bench.distiller(rollout, stop_token_ids, micro_batch_size=size)
    yield "", update(at_once, batch, rows)


def wide(bench):
    """An update of four batches, at several acceptance rates."""
    shape = dataclasses.replace(
        bench.shape, batch_size=4 * bench.shape.batch_size
    )
    batch = make_batch(shape)
    rollout = Speculative(acceptance=Controlled())
    for how, measure in updates(bench, rollout, batch):
        for probability in (0.0, 0.3, 0.9, 1.0):

            def at(probability=probability, measure=measure):
                rollout.acceptance.probability.assign(probability)
                return measure()

            yield f"SKD update{how}, {probability:.0%} accepted", at
    for how, measure in updates(bench, OnPolicy(), batch):
        yield f"on-policy update{how}", measure


def uneven(bench):
    """An update of four batches, with answers as uneven as in chats."""
    shape = dataclasses.replace(
        bench.shape, batch_size=4 * bench.shape.batch_size, num_new_tokens=256
    )
    batch = make_batch(shape)
    sampler = StopsAtRandom(mean=44)
    for name, rollout in (
        ("SKD", Speculative(Controlled(0.9), student_sampler=sampler)),
        ("on-policy", OnPolicy(sampler)),
    ):
        for how, measure in updates(bench, rollout, batch, (STOP_ID,)):
            yield f"{name} update{how}, uneven", measure


def floor(bench):
    """The unavoidable parts of a step, each compiled alone, on JAX."""
    if keras.config.backend() == "jax":
        from floor import parts

        yield from parts(bench, make_batch(bench.shape))


def bound(bench):
    """The rates of products, for a lower bound of the steps."""
    yield from bounds.rates(bench.shape)


PARTS = {
    "skd": skd,
    "on_policy": on_policy,
    "generate": generate,
    "floor": floor,
    "bound": bound,
    "acceptance": acceptance,
    "passes": passes,
    "length": length,
    "position": position,
    "wide": wide,
    "uneven": uneven,
}


def run(shape, only=tuple(PARTS), repeats=5):
    """Makes the measurements of some parts, in turn."""
    bench = Bench(SHAPES[shape])
    measurements = {}
    for part in only:
        measurements.update(PARTS[part](bench))
    interleave(
        measurements, repeats, shape=shape, backend=keras.config.backend()
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", default="small", choices=SHAPES)
    parser.add_argument(
        "--only", nargs="+", default=list(PARTS), choices=PARTS, metavar="PART"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--profile",
        metavar="FOLDER",
        help="only profile an SKD rollout, and write what it does there",
    )
    args = parser.parse_args()
    if args.profile:
        from profiles import profile

        bench = Bench(SHAPES[args.shape])
        name, measure = list(skd(bench))[1]
        print(name, profile(measure, args.profile, args.shape))
        return
    emit_versions(
        "keras",
        "keras-hub",
        keras.config.backend(),
        backend=keras.config.backend(),
    )
    run(args.shape, args.only, args.repeats)


if __name__ == "__main__":
    main()
