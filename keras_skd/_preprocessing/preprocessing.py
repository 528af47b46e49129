"""From strings to right-padded token ids, for any input that `fit` takes.

Ids are made once and never decoded and encoded again: what the models wrote is
what the student is trained on.
"""

import keras
import numpy as np

from keras_skd import _validation as validation

try:
    import tensorflow as tf
except ImportError:
    tf = None

STRING_KEYS = ("prompts", "responses", "teacher_prompts")
TOKEN_KEYS = (
    "token_ids",
    "padding_mask",
    "response_mask",
    "teacher_token_ids",
    "teacher_padding_mask",
)


class Packer:
    """Packs prompts and responses into rows of one length.

    A row is the start token (if the preprocessor adds one), the prompt, the
    response and, after a response, the end token. Prompt and response are
    tokenized apart, as KerasHub does it. A response that is too long is cut.

    Args:
        preprocessor: a `keras_hub.models.CausalLMPreprocessor`, or `None` for
            data that comes as token ids.
        sequence_length: int. The length of all rows. `None` for the length of
            the data, with token ids only.
        teacher_sequence_length: int. The length of the teacher's rows, where
            it sees other prompts. Defaults to twice `sequence_length`.
        models: dict of the `"teacher"` and the `"student"`, which must be able
            to read the rows. Defaults to `None`, no check.

    Call arguments:
        batch: dict of `"prompts"` and maybe `"responses"` and
            `"teacher_prompts"`, lists or arrays of strings, with a
            preprocessor; without one, dict of `"token_ids"`, `"padding_mask"`
            and maybe `"response_mask"`, of shape `(batch, sequence_length)`,
            and maybe the teacher's own prompts, `"teacher_token_ids"` and
            `"teacher_padding_mask"`, of shape
            `(batch, teacher_sequence_length)`.

    Returns:
        dict of NumPy arrays, like `batch` without a preprocessor: token ids
        are int32, masks bool.
    """

    def __init__(
        self,
        preprocessor=None,
        sequence_length=None,
        teacher_sequence_length=None,
        models=None,
    ):
        self.preprocessor = preprocessor
        self.models = models or {}
        self.sequence_length = sequence_length
        self.teacher_sequence_length = teacher_sequence_length
        if teacher_sequence_length is None and sequence_length is not None:
            self.teacher_sequence_length = 2 * sequence_length

    def __call__(self, batch):
        if not isinstance(batch, dict):
            raise TypeError(
                "Each element of the data must be a dict, such as "
                '{"prompts": [...], "responses": [...]}. Received: '
                f"{type(batch).__name__}"
            )
        batch = {key: _to_numpy(key, value) for key, value in batch.items()}
        if self.preprocessor is None:
            packed = self._check_token_ids(batch)
        else:
            packed = self._pack_strings(batch)
        self._check_models(packed)
        return packed

    def _pack_strings(self, batch):
        _check_keys(batch, STRING_KEYS, "strings")
        columns = {key: _strings(key, value) for key, value in batch.items()}
        prompts, responses = columns["prompts"], columns.get("responses")
        for key, values in columns.items():
            if len(values) != len(prompts):
                raise ValueError(
                    f'"prompts" and "{key}" must be as many. Received: '
                    f"{len(prompts)} prompts and {len(values)} {key}."
                )
        start = self._special_token("add_start_token", "start_token_id")
        rows = [start + row for row in self._tokenize(prompts)]
        for i, (row, prompt) in enumerate(zip(rows, prompts)):
            self._check_prompt(i, prompt, len(row))
        lengths = np.array([len(row) for row in rows])
        if responses is not None:
            end = self._special_token("add_end_token", "end_token_id")
            responses = self._tokenize(responses)
            rows = [row + r + end for row, r in zip(rows, responses)]

        token_ids, padding_mask = _pad(rows, self.sequence_length)
        packed = {"token_ids": token_ids, "padding_mask": padding_mask}
        if responses is not None:
            after_prompt = np.arange(self.sequence_length) >= lengths[:, None]
            packed["response_mask"] = padding_mask & after_prompt
        if "teacher_prompts" in columns:
            rows = self._tokenize(columns["teacher_prompts"])
            rows = [start + row for row in rows]
            teacher_lengths = np.array([len(row) for row in rows])
            self._check_teacher_prompts(
                lengths,
                teacher_lengths,
                self.sequence_length,
                self.teacher_sequence_length,
            )
            token_ids, padding_mask = _pad(rows, self.teacher_sequence_length)
            packed["teacher_token_ids"] = token_ids
            packed["teacher_padding_mask"] = padding_mask
        return packed

    def _check_teacher_prompts(self, lengths, teacher_lengths, length, room):
        needed = teacher_lengths + length - lengths
        short = (needed > room) | (teacher_lengths == 0)
        if short.any():
            row = int(np.argmax(short))
            raise ValueError(
                "Each of the teacher's prompts needs a token, and room for the "
                "same response as the student's. Received: "
                f"`teacher_sequence_length={room}` and a teacher's prompt of "
                f"{teacher_lengths[row]} tokens in row {row}, with a response "
                f"of up to {length - lengths[row]} tokens. Pass "
                f"`teacher_sequence_length={int(needed.max())}` or more."
            )

    def _check_models(self, packed):
        teacher = {k: m for k, m in self.models.items() if k == "teacher"}
        hint = ""
        if self.preprocessor is not None:
            hint = " The `preprocessor` belongs to another model."
        for prefix, models in (("", self.models), ("teacher_", teacher)):
            key, mask = f"{prefix}token_ids", f"{prefix}padding_mask"
            if key not in packed:
                continue
            validation.check_sequence_length(
                packed[key].shape[1], models, f"{prefix}sequence_length"
            )
            for model in models.values():
                validation.check_token_ids(
                    packed[key], packed[mask], model.output.shape[-1], key, hint
                )

    def _tokenize(self, strings):
        rows = self.preprocessor.tokenizer(strings)
        rows = rows.to_list() if hasattr(rows, "to_list") else rows
        return [[int(i) for i in row] for row in rows]

    def _special_token(self, switch, name):
        if not getattr(self.preprocessor, switch, False):
            return []
        token_id = getattr(self.preprocessor.tokenizer, name, None)
        return [] if token_id is None else [token_id]

    def _check_prompt(self, i, prompt, length):
        shown = prompt if len(prompt) <= 40 else prompt[:37] + "..."
        if length == 0:
            raise ValueError(
                f'"prompts" must not be empty: row {i} has no token to '
                "continue from. Add a start token or some text."
            )
        if length >= self.sequence_length:
            raise ValueError(
                "A prompt leaves no room for a response. Received: "
                f"`sequence_length={self.sequence_length}` and a prompt of "
                f"{length} tokens in row {i}, {shown!r}. Shorten the prompt or "
                "pass a larger `sequence_length` to the `Distiller`."
            )

    def _check_token_ids(self, batch):
        _check_keys(batch, TOKEN_KEYS, "token ids")
        ours, theirs = TOKEN_KEYS[:3], TOKEN_KEYS[3:]
        if {*theirs} & {*batch} and not {*theirs} <= {*batch}:
            raise ValueError(
                f"The teacher's own prompts are both of {list(theirs)}. "
                f"Received the keys: {sorted(batch)}."
            )
        shape = batch["token_ids"].shape
        for key, value in batch.items():
            if value.dtype.kind not in "iub":
                raise TypeError(
                    f'"{key}" must be integers or booleans. Received dtype: '
                    f"{value.dtype}. To pass strings, give the `Distiller` a "
                    "`preprocessor`."
                )
            expected = shape
            if key not in ours:
                expected = (*shape[:1], *batch["teacher_token_ids"].shape[1:])
            if value.ndim != 2 or value.shape != expected:
                like = key.replace("padding_mask", "token_ids")
                raise ValueError(
                    f'"{key}" must have the shape (batch, sequence_length) of '
                    f'"{like}". Received: {value.shape}, where {expected} was '
                    "expected."
                )
        if shape[0] == 0:
            raise ValueError('"token_ids" has no rows. Received: no data.')
        if self.sequence_length not in (None, shape[1]):
            raise ValueError(
                f"`sequence_length={self.sequence_length}` of the `Distiller` "
                f'and "token_ids" of shape {shape} differ. Leave '
                "`sequence_length` out to follow the data."
            )
        batch = {
            key: value.astype("bool" if key.endswith("_mask") else "int32")
            for key, value in batch.items()
        }
        for key in ("padding_mask", "teacher_padding_mask"):
            mask = batch.get(key, batch["padding_mask"])
            resumed = (~mask[:, :-1] & mask[:, 1:]).any(axis=1)
            if resumed.any():
                row = int(np.argmax(resumed))
                raise ValueError(
                    f'"{key}" must be right-padded, a run of ones and then '
                    f"zeros. Received in row {row}: {mask[row].astype(int)}"
                )
        mask = batch["padding_mask"]
        response = mask & batch.get("response_mask", np.zeros_like(mask))
        prompt = mask & ~response
        resumed = (response[:, :-1] & prompt[:, 1:]).any(axis=1)
        if resumed.any():
            row = int(np.argmax(resumed))
            raise ValueError(
                '"response_mask" must mark a response that follows its prompt '
                f"and ends the row. Received in row {row}: "
                f'{response[row].astype(int)}, where "padding_mask" is '
                f"{mask[row].astype(int)}"
            )
        lengths = prompt.sum(1)
        if (lengths == 0).any() or (lengths >= shape[1]).any():
            row = int(np.argmax((lengths == 0) | (lengths >= shape[1])))
            raise ValueError(
                "Each row needs a prompt of at least one token, and room for a "
                f"response. Received: a prompt of {lengths[row]} tokens in row "
                f"{row}, of `sequence_length` {shape[1]}."
            )
        if "teacher_token_ids" in batch:
            self._check_teacher_prompts(
                lengths,
                batch["teacher_padding_mask"].sum(1),
                shape[1],
                batch["teacher_token_ids"].shape[1],
            )
        return batch


def _pad(rows, length):
    """Rows of ids as an array, and where it holds them."""
    token_ids = np.zeros((len(rows), length), "int32")
    padding_mask = np.zeros((len(rows), length), "bool")
    for i, row in enumerate(rows):
        row = row[:length]
        token_ids[i, : len(row)] = row
        padding_mask[i, : len(row)] = True
    return token_ids, padding_mask


def prepare(data, pack, argument="x"):
    """Maps `pack` over any of the inputs that `fit` takes.

    Args:
        data: dict of whole columns, `tf.data.Dataset` of batches, or
            `keras.utils.PyDataset`.
        pack: a `Packer`.
        argument: str. The argument that `data` came from, for the errors.

    Returns:
        `(data, keys)`: data that Keras' own `fit` takes, and the keys of its
        batches.
    """
    if isinstance(data, (tuple, list)) and len(data) == 1:
        data = data[0]
    if isinstance(data, dict):
        packed = pack(data)
        return packed, tuple(packed)
    if tf is not None and isinstance(data, tf.data.Dataset):
        return _prepare_tf_data(data, pack)
    if isinstance(data, keras.utils.PyDataset):
        packed = _PackedPyDataset(data, pack)
        return packed, tuple(packed[0])
    raise TypeError(
        f'`{argument}` must be a dict such as {{"prompts": [...], '
        '"responses": [...]}, a `tf.data.Dataset` of such batches, or a '
        f"`keras.utils.PyDataset`. Received: {type(data).__name__}"
    )


class _PackedPyDataset(keras.utils.PyDataset):
    """A `PyDataset` whose batches are packed on their way out."""

    def __init__(self, dataset, pack):
        super().__init__(
            workers=dataset.workers,
            use_multiprocessing=dataset.use_multiprocessing,
            max_queue_size=dataset.max_queue_size,
        )
        self.dataset = dataset
        self.pack = pack

    @property
    def num_batches(self):
        return self.dataset.num_batches

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        return self.pack(_only_x(self.dataset[index]))

    def on_epoch_begin(self):
        self.dataset.on_epoch_begin()

    def on_epoch_end(self):
        self.dataset.on_epoch_end()


def _prepare_tf_data(dataset, pack):
    spec = _only_x(dataset.element_spec)
    if not isinstance(spec, dict):
        raise TypeError(
            "Each element of the dataset must be a dict, such as "
            f'{{"prompts": ..., "responses": ...}}. Received: {spec}'
        )
    for key, leaf in spec.items():
        if leaf.shape.rank == 0:
            raise ValueError(
                f'The dataset must yield batches, and "{key}" is a single '
                "value. Call `.batch(batch_size)` on it."
            )
    # Surface bad keys and bad rows now, as a plain error, and not from inside
    # of the pipeline in the middle of an epoch.
    first = next(iter(dataset.take(1).as_numpy_iterator()), None)
    if first is None:
        raise ValueError("The dataset is empty. Received: no batch.")
    first = pack(_only_x(first))

    def pack_arrays(*arrays):
        return list(pack(dict(zip(spec, arrays))).values())

    def pack_tensors(*elements):
        batch = _only_x(elements)
        outputs = tf.numpy_function(
            pack_arrays,
            [batch[key] for key in spec],
            [tf.as_dtype(value.dtype) for value in first.values()],
        )
        batch_size = batch["prompts" if "prompts" in spec else "token_ids"]
        for output, like in zip(outputs, first.values()):
            output.set_shape((batch_size.shape[0], like.shape[1]))
        return dict(zip(first, outputs))

    return dataset.map(pack_tensors).prefetch(tf.data.AUTOTUNE), tuple(first)


def _only_x(element):
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(element)
    if y is not None or sample_weight is not None:
        raise ValueError(
            "Distillation takes its targets from the teacher: the data must be "
            'dicts of "prompts" and "responses" alone, without `y` or '
            "`sample_weight`."
        )
    return x


def _check_keys(batch, keys, kind):
    required, known = set(keys[: 1 if kind == "strings" else 2]), set(keys)
    missing, unknown = required - set(batch), set(batch) - known
    if not missing and not unknown:
        return
    other = STRING_KEYS if kind == "token ids" else TOKEN_KEYS
    hint = ""
    if set(batch) & set(other):
        hint = (
            " To pass strings, the `Distiller` or its student needs a "
            "`preprocessor`."
            if kind == "token ids"
            else " To pass token ids, use models without a `preprocessor`."
        )
    raise ValueError(
        f"The data must be {kind}, a dict of {list(keys)} of which "
        f"{sorted(required)} must be there. Received the keys: "
        f"{sorted(batch)}.{hint}"
    )


def _to_numpy(key, value):
    if isinstance(value, (str, bytes)):
        raise TypeError(
            f'"{key}" must be a list or array, of one value a row. Received a '
            f"single string: {value[:40]!r}. Put it in a list."
        )
    if tf is not None and isinstance(value, tf.Tensor):
        return value.numpy()
    if keras.ops.is_tensor(value):
        return keras.ops.convert_to_numpy(value)
    if isinstance(value, np.ndarray):
        return value
    value = list(value)
    if any(isinstance(v, (str, bytes)) or v is None for v in value):
        return np.array(value, dtype=object)
    return np.array(value)


def _strings(key, values):
    if values.ndim != 1:
        raise ValueError(
            f'"{key}" must be one string a row, of shape (batch,). Received '
            f"shape: {values.shape}"
        )
    if len(values) == 0:
        raise ValueError(f'"{key}" is empty. Received: no rows.')
    strings = []
    for i, value in enumerate(values.tolist()):
        if isinstance(value, bytes):
            try:
                value = value.decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f'"{key}" must be text in UTF-8. Received in row {i}: '
                    f"{value[:40]!r}"
                ) from error
        if not isinstance(value, str):
            raise TypeError(
                f'"{key}" must be strings. Received in row {i}: {value!r} of '
                f"type {type(value).__name__}"
            )
        strings.append(value)
    return strings
