"""The unavoidable parts of a training step, each compiled alone (JAX)."""

import jax
import keras
import keras_hub
import numpy as np
from keras import ops
from shapes import SEED
from timing import timed

from keras_skd import Source
from keras_skd._objective.chunked_loss import ChunkedLoss
from keras_skd.decoding import CachedCausalLM
from keras_skd.decoding._sampling import sample
from keras_skd.losses import ForwardKL


def parts(bench, batch):
    """The student writes, the teacher reads the text once, the student learns.

    No speculation, no sampling by the teacher, no optimizer and no metrics; a
    loop in Python over compiled one-token steps.
    """
    shape = bench.shape
    teacher, student = bench.teacher, bench.student
    teacher_lm, student_lm = CachedCausalLM(teacher), CachedCausalLM(student)
    sampler = keras_hub.samplers.RandomSampler(seed=SEED)

    def with_weights(function, variables, **jit_arguments):
        """Compiles a function that reads variables."""

        def stateless(values, *args):
            with keras.StatelessScope(zip(variables, values)):
                return function(*args)

        compiled = jax.jit(stateless, **jit_arguments)
        return lambda *args: compiled([v.value for v in variables], *args)

    def prefill(token_ids):
        cache = student_lm.empty_cache(*batch["token_ids"].shape)
        _, hidden_states, cache = student_lm.extend(token_ids, cache, 0)
        return choose(hidden_states[:, -1]), cache

    def decode(token_ids, cache, index):
        _, hidden_states, cache = student_lm.extend(
            token_ids[:, None], cache, index
        )
        return choose(hidden_states[:, 0]), cache

    def choose(hidden_states):
        # The seed's state is not updated: every token gets the same numbers.
        return sample(sampler, student_lm.logits(hidden_states))

    variables = [*student.variables, sampler.seed_generator.state]
    prefill = with_weights(prefill, variables)
    decode = with_weights(decode, variables, donate_argnums=2)
    prompts = ops.convert_to_tensor(
        batch["token_ids"][:, : shape.prompt_length]
    )

    def decode_all():
        token_ids, cache = jax.block_until_ready(prefill(prompts))

        def steps():
            state = token_ids, cache
            # The last token is written and never read.
            for index in range(shape.prompt_length, shape.sequence_length - 1):
                state = decode(*state, index)
            jax.block_until_ready(state)

        return timed(steps)()

    # Any tokens will do for the rest.
    token_ids = np.random.default_rng(SEED).integers(
        2, shape.vocabulary_size, batch["token_ids"].shape, "int32"
    )
    column = np.arange(shape.sequence_length)[None]
    response_mask = np.repeat(
        column >= shape.prompt_length, shape.batch_size, axis=0
    )
    written = {
        "token_ids": token_ids,
        "padding_mask": np.ones_like(response_mask),
        "response_mask": response_mask,
        "sources": np.where(response_mask, Source.STUDENT, Source.PROMPT),
    }
    written = {k: ops.convert_to_tensor(v) for k, v in written.items()}
    loss = ChunkedLoss(ForwardKL(), teacher_lm, student_lm)

    def read(written):
        return teacher_lm.hidden_states(
            written["token_ids"], written["padding_mask"]
        )

    def learn(written, teacher_hidden_states):
        variables = student.trainable_variables

        def value(weights):
            with keras.StatelessScope(zip(variables, weights)):
                hidden_states = student_lm.hidden_states(
                    written["token_ids"], written["padding_mask"], training=True
                )
                return loss(hidden_states, teacher_hidden_states, written)

        return jax.value_and_grad(value)([v.value for v in variables])

    read = with_weights(read, teacher.variables)
    learn = with_weights(learn, student.variables + teacher_lm.head_variables)

    def finished(function, *args):
        return timed(lambda: jax.block_until_ready(function(*args)))

    yield "floor: student's prefill", finished(prefill, prompts)
    yield "floor: student's one-token steps", decode_all
    yield "floor: teacher reads everything", finished(read, written)
    yield (
        "floor: student's forward and backward",
        finished(learn, written, read(written)),
    )
