"""One model writes every response."""

from keras import ops

from keras_skd._source import Source
from keras_skd.decoding import _lockstep
from keras_skd.decoding._cached_causal_lm import CachedCausalLM
from keras_skd.decoding._compaction import last_rows
from keras_skd.decoding._compaction import more_are_left
from keras_skd.decoding._compaction import num_last_rows
from keras_skd.decoding._compaction import put_rows
from keras_skd.decoding._compaction import take_rows
from keras_skd.decoding._control_flow import while_loop
from keras_skd.decoding._prompts import Prompts
from keras_skd.decoding._sampling import sample
from keras_skd.decoding._sequences import Sequences
from keras_skd.decoding._stages import cache_stages


def write(
    model: CachedCausalLM,
    sampler,
    prompts: Prompts,
    source: Source,
    stop_token_ids: tuple[int, ...] = (),
) -> Sequences:
    """Lets one model write every response.

    Each row is at its own position. Recurrent models cannot do that, and write
    in lock-step.

    Args:
        model: a `CachedCausalLM`.
        sampler: a `keras_hub.samplers.Sampler`.
        prompts: `Prompts`.
        source: `keras_skd.Source`, the model's role.
        stop_token_ids: tuple of ints.

    Returns:
        `Sequences`, all finished.
    """
    if not model.can_roll_back:
        return _lockstep.write(model, sampler, prompts, source, stop_token_ids)

    def write_until(sequences, cache, length, num_last=0):
        """Writes until a row does not fit, or only the last rows are left."""

        def fits(sequences, cache):
            fits = sequences.finished | (sequences.ends <= length)
            return ops.all(fits) & more_are_left(sequences.finished, num_last)

        def body(sequences, cache):
            logits, cache = next_logits(model, sequences, cache)
            token = sample(sampler, logits)
            return sequences.append(token, source, stop_token_ids), cache

        return while_loop(
            fits,
            body,
            (sequences, cache),
            constants=model.model.variables,
            states=sampler.variables,
        )

    num_last = num_last_rows(prompts.batch_size)
    sequences = Sequences.start(prompts)
    cache = model.empty_cache(prompts.batch_size, 0)
    for previous, length in cache_stages(prompts.sequence_length):
        cache = model.grow_cache(cache, length)
        cache = model.prefill(
            prompts.token_ids, cache, previous, prompts.longest - 1
        )
        sequences, cache = write_until(sequences, cache, length, num_last)
    if num_last:
        index = last_rows(sequences.finished, num_last)
        rows, cache = take_rows((sequences, cache), index)
        rows, _ = write_until(rows, cache, length)
        sequences = put_rows(sequences, index, rows)
    return sequences


def next_logits(model, sequences, cache, ahead=0, width=1):
    """Reads the last tokens of each row.

    Args:
        model: a `CachedCausalLM`.
        sequences: `Sequences`.
        cache: the model's cache of all tokens before those that it reads.
        ahead: int scalar. The number of drafts after the row's end that count
            as part of it. Defaults to 0.
        width: int. The number of tokens to read. Defaults to 1.

    Returns:
        `(logits, cache)`, the logits of the next token, of shape
        `(batch, vocabulary_size)`.
    """
    # A finished row reads nothing new: any position in the cache will do.
    end = model.cache_length(cache) - 1
    last = ops.clip(sequences.ends - 1 + ahead, 0, end)
    # A row of a single token reads the one after it too, which is overwritten.
    # `ops.maximum(last, 0)` is a float on JAX where Keras' floatx is bfloat16.
    first = ops.clip(last - (width - 1), 0, end)
    window = first[:, None] + ops.arange(width, dtype="int32")
    tokens = ops.take_along_axis(sequences.token_ids, window, axis=1)
    logits, _, cache = model.extend_rows(tokens, cache, first)
    if width == 1:
        return logits[:, 0], cache
    at_last = (last - first)[:, None, None]
    return ops.take_along_axis(logits, at_last, axis=1)[:, 0], cache
