"""One interface to every KerasHub causal LM: hidden states, logits, cache."""

import contextlib
import functools
import inspect
from collections.abc import Callable

import keras
from keras import ops
from keras import tree

from keras_skd._backend import attention_scope
from keras_skd._backend import on_each_device
from keras_skd._backend import replay
from keras_skd._backend import unstacks_caches
from keras_skd._backend import vmap_rows
from keras_skd._backend.unstacked_cache import call_with_unstacked_cache
from keras_skd._backend.unstacked_cache import unstacked_spec
from keras_skd._without_lora import WithoutLora
from keras_skd.decoding._control_flow import while_loop


class CachedCausalLM:
    """Forward passes of a KerasHub causal LM, with and without its cache.

    In KerasHub, `call_with_cache(token_ids, cache, cache_update_index)` takes
    one index for the whole batch, and the shape of the cache differs between
    models. This class handles caches of any shape, and `extend_rows` gives each
    row its own index. It does no sampling.

    Args:
        model: a `keras_hub.models.CausalLM` with `call_with_cache`, or the
            base of one, `keras_skd.without_lora(student)`.
        vocabulary_size: int. The number of token ids that teacher and student
            share. The logits of all other ids are dropped, so that those
            tokens have no probability. Defaults to `None`, the model's own.

    Attributes:
        can_roll_back: bool. Whether tokens can be removed by overwriting them
            in the cache. This needs one axis of positions in every cache
            tensor; recurrent models (RWKV-7, Qwen 3.5) have a state instead.
        is_unstacked: bool. Whether the cache is a tuple with a pair `(key,
            value)` for each layer, where the model has one tensor for it.
    """

    def __init__(self, model, vocabulary_size: int | None = None):
        self._scope: Callable = contextlib.nullcontext
        if isinstance(model, WithoutLora):
            self._scope, model = model.scope, model.student
        self.model = model
        self.vocabulary_size = vocabulary_size or model.output.shape[-1]
        parameters = inspect.signature(model.call_with_cache).parameters
        self._takes_index = "cache_update_index" in parameters
        # RWKV-7's backbone contains its head: its "hidden states" are logits.
        # All other models project with the embedding.
        self._has_head = isinstance(
            model.backbone.token_embedding, keras.layers.ReversibleEmbedding
        )
        short, long = self._cache_spec(2), self._cache_spec(3)
        self.is_unstacked = unstacks_caches and self._can_unstack(short)
        if self.is_unstacked:
            short, long = unstacked_spec(short), unstacked_spec(long)
        self._cache_template = short
        self._position_axes = [
            [i for i, (m, n) in enumerate(zip(a.shape, b.shape)) if m != n]
            for a, b in zip(tree.flatten(short), tree.flatten(long))
        ]
        self.can_roll_back = all(len(axes) == 1 for axes in self._position_axes)

    @property
    def hidden_dim(self):
        return self.model.backbone.output.shape[-1]

    @property
    def compute_dtype(self):
        return self.model.compute_dtype

    def _cache_spec(self, length):
        # `_build_cache` also runs the model over the whole length. Tracing it
        # symbolically gives the shapes without running anything.
        build = self.model._build_cache
        rest = [None] * (len(inspect.signature(build).parameters) - 1)

        class BuildCache(keras.Operation):
            def call(self, token_ids):
                return build(token_ids, *rest)[1]

        with self._scope():
            return BuildCache().compute_output_spec(
                keras.KerasTensor((1, length), "int32")
            )

    def _can_unstack(self, spec):
        """Whether the model runs with an unstacked cache."""
        if not isinstance(spec, keras.KerasTensor):
            return False
        extend = functools.partial(self._extend, is_unstacked=True)

        class Extend(keras.Operation):
            def call(self, *arguments):
                return extend(*arguments)[-1]

        token_ids, index = (
            keras.KerasTensor(shape, "int32") for shape in ((1, 1), ())
        )
        try:
            Extend().compute_output_spec(token_ids, unstacked_spec(spec), index)
        except Exception:
            # It does more with its cache than slicing and updating it. SmolLM3
            # passes it to a layer that takes any arguments, but all tensors.
            return False
        return True

    def empty_cache(self, batch_size, length):
        """Returns a cache of zeros.

        Args:
            batch_size: int or scalar tensor.
            length: int. The number of positions.
        """

        def zeros(spec, axes):
            shape = [batch_size, *spec.shape[1:]]
            for axis in axes:
                shape[axis] = length
            return ops.zeros(shape, dtype=spec.dtype)

        leaves = [
            zeros(spec, axes)
            for spec, axes in zip(
                tree.flatten(self._cache_template), self._position_axes
            )
        ]
        return tree.pack_sequence_as(self._cache_template, leaves)

    def hidden_states(self, token_ids, padding_mask, training=False):
        """The final hidden states of a whole sequence, without a cache.

        Args:
            token_ids: int tensor of shape `(batch, length)`.
            padding_mask: bool or int tensor of shape `(batch, length)`.
            training: bool. Whether dropout is on.

        Returns:
            Tensor of shape `(batch, length, hidden_dim)`.
        """
        inputs = self._inputs(token_ids, padding_mask)
        with self._scope():
            return self.model.backbone(inputs, training=training)

    def _inputs(self, token_ids, padding_mask):
        """The inputs of the backbone: text, and neither images nor audio."""
        inputs = {"token_ids": token_ids, "padding_mask": padding_mask}
        for name, spec in self.model.backbone.input.items():
            if name in ("vision_mask", "audio_mask"):
                inputs[name] = ops.zeros_like(token_ids)
            elif name == "position_ids":
                positions = ops.arange(token_ids.shape[1], dtype="int32")
                inputs[name] = positions + ops.zeros_like(token_ids)
            elif name not in inputs:
                shape = [0 if size is None else size for size in spec.shape]
                shape[0] = ops.shape(token_ids)[0]
                inputs[name] = ops.zeros(shape, dtype=spec.dtype)
        return inputs

    def layer_reader(self, outputs):
        """Makes a forward pass that also returns the outputs of some layers.

        Args:
            outputs: list of symbolic outputs of layers of the backbone.

        Returns:
            Callable with the arguments of `hidden_states`. It returns a list:
            the final hidden states, then those of the layers.
        """
        backbone = self.model.backbone
        reader = keras.Model(backbone.input, [backbone.output, *outputs])

        def read(token_ids, padding_mask, training=False):
            inputs = self._inputs(token_ids, padding_mask)
            with self._scope():
                return reader(inputs, training=training)

        return read

    def logits(self, hidden_states):
        """Projects hidden states to the vocabulary.

        Args:
            hidden_states: tensor of shape `(..., hidden_dim)`.

        Returns:
            Tensor of shape `(..., vocabulary_size)`.
        """
        if not self._has_head:
            return self._shared(hidden_states)
        head = self.model.backbone.token_embedding
        with self._scope():
            return self._shared(head(hidden_states, reverse=True))

    def _shared(self, logits):
        if logits.shape[-1] == self.vocabulary_size:
            return logits
        return logits[..., : self.vocabulary_size]

    @property
    def head_variables(self):
        """The variables that `logits` reads."""
        if not self._has_head:
            return []
        return self.model.backbone.token_embedding.variables

    def extend(self, token_ids, cache, index):
        """Runs new tokens against the cache, all rows at one index.

        Args:
            token_ids: int tensor of shape `(batch, width)`.
            cache: the cache from `empty_cache` or an earlier call.
            index: int scalar. The position of the first column.

        Returns:
            `(logits, hidden_states, cache)`, the first two of shapes
            `(batch, width, vocabulary_size)` and `(batch, width, hidden_dim)`.
        """

        def extend(rows, largest):
            token_ids, cache = rows
            return self._extend(token_ids, cache, index, self.is_unstacked), ()

        return on_each_device(extend, (token_ids, cache))[0]

    def _extend(self, token_ids, cache, index, is_unstacked):
        if self._takes_index:
            arguments = {"cache_update_index": index}
        else:
            # By default, RWKV-7 treats token 0 as padding.
            arguments = {"padding_mask": ops.ones_like(token_ids)}

        def call(cache):
            return self.model.call_with_cache(token_ids, cache, **arguments)

        with self._scope(), attention_scope():
            logits, hidden_states, cache = (
                call_with_unstacked_cache(call, cache)
                if is_unstacked
                else call(cache)
            )
        if not self._has_head:
            hidden_states = logits
        return self._shared(logits), hidden_states, cache

    def extend_rows(self, token_ids, cache, indices):
        """Runs new tokens against the cache, each row at its own index.

        Args:
            token_ids: int tensor of shape `(batch, width)`.
            cache: the cache from `empty_cache` or an earlier call. It may be
                overwritten: use the returned cache from then on.
            indices: int tensor of shape `(batch,)`. For each row, the position
                of its first new token.

        Returns:
            The same as `extend`.
        """
        return self._extend_rows(token_ids, cache, indices)

    def _map_rows(self, token_ids, cache, indices):
        def extend_row(row):
            tokens, cache, index = row
            cache = tree.map_structure(lambda x: x[None], cache)
            outputs = self._extend(
                tokens[None], cache, index, self.is_unstacked
            )
            return tree.map_structure(lambda x: x[0], outputs)

        return vmap_rows(extend_row, (token_ids, cache, indices))

    @functools.cached_property
    def _extend_rows(self):
        return replay(
            self._map_rows, lambda: self.model.variables, donate_argnum=1
        )

    @functools.cached_property
    def _fill(self):
        # Only the cache is returned: a traced graph does not compute logits.
        return replay(
            lambda *arguments: self.extend(*arguments)[-1],
            lambda: self.model.variables,
            donate_argnum=1,
        )

    def prefill(self, token_ids, cache, start, stop, chunk=32):
        """Reads the columns from `start` to `stop` into the cache.

        The number of chunks depends on `stop` at run time, so that a short
        prompt in a long buffer costs little, without recompiling. Columns
        after a row's own prompt are read too, and overwritten before anything
        attends to them.

        Args:
            token_ids: int tensor of shape `(batch, sequence_length)`.
            cache: the cache, filled up to `start`.
            start: int.
            stop: int scalar tensor. Columns beyond the cache are left out.
            chunk: int. The number of columns that one pass reads.

        Returns:
            The cache.
        """
        length = self.cache_length(cache)
        chunk = min(chunk, length)
        # `ops.minimum` would treat a Python int as a `floatx` number.
        stop = ops.clip(ops.convert_to_tensor(stop, "int32"), 0, length)

        def body(start, cache):
            # The last chunk is moved back to fit: reading a column twice
            # changes nothing.
            index = ops.clip(start, 0, length - chunk)
            columns = ops.take(
                token_ids, index + ops.arange(chunk, dtype="int32"), axis=1
            )
            return start + chunk, self._fill(columns, cache, index)

        _, cache = while_loop(
            lambda start, cache: start < stop,
            body,
            (ops.convert_to_tensor(start, "int32"), cache),
            constants=self.model.variables,
        )
        return cache

    def grow_cache(self, cache, length):
        """Makes room for `length` positions in a cache."""

        def grow(x, axes):
            paddings = [(0, 0)] * len(x.shape)
            for axis in axes:
                paddings[axis] = (0, length - x.shape[axis])
            return ops.pad(x, paddings)

        leaves = map(grow, tree.flatten(cache), self._position_axes)
        return tree.pack_sequence_as(cache, list(leaves))

    def cache_length(self, cache) -> int:
        """The number of positions that a cache has room for."""
        return tree.flatten(cache)[0].shape[self._position_axes[0][0]]
