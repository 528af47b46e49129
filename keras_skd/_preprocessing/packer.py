import copy

import numpy as np

from keras_skd._checks import check_integer
from keras_skd._preprocessing.columns import check_keys
from keras_skd._preprocessing.columns import to_array
from keras_skd._preprocessing.columns import to_strings
from keras_skd._preprocessing.long_prompts import LongPrompts
from keras_skd._preprocessing.token_ids import check_token_ids
from keras_skd._preprocessing.token_ids import check_vocabulary
from keras_skd._preprocessing.token_ids import prompt_lengths


class Packer:
    """Packs prompts and responses into rows of one length.

    A row is the start token (if the preprocessor adds one), the prompt, the
    response and, after a response, the end token. Prompt and response are
    tokenized separately, as KerasHub does it. A response that is too long is
    truncated.

    Args:
        preprocessor: a `keras_hub.models.CausalLMPreprocessor`, or `None` for
            data that comes as token ids.
        sequence_length: int. The length of all rows; shorter rows of token ids
            are padded. Defaults to the preprocessor's, or to the data's.
        teacher_sequence_length: int. The length of the teacher's rows, where
            it has its own prompts. Defaults to twice `sequence_length`.
        models: dict of the `"teacher"` and the `"student"`, which must be able
            to read the rows. Defaults to `None`, no check.
        vocabulary_size: int. The number of tokens that the models share.
            Defaults to `None`, no check.
        long_prompts: `"error"`, `"skip"`, `"truncate_left"` or
            `"truncate_right"`, the handling of prompts that leave no room for
            a response. Defaults to `"error"`.

    Call arguments:
        batch: dict of `"prompts"` and optionally `"responses"` and
            `"teacher_prompts"`, lists or arrays of strings, with a
            preprocessor; without one, dict of `"token_ids"`, `"padding_mask"`
            and optionally `"response_mask"`, of shape
            `(batch, sequence_length)`, and the teacher's own prompts,
            `"teacher_token_ids"` and `"teacher_padding_mask"`, of shape
            `(batch, teacher_sequence_length)`.

    Returns:
        dict of NumPy arrays, like `batch` without a preprocessor: token ids
        are int32, masks bool. It has fewer rows than `batch` if prompts are
        skipped.
    """

    def __init__(
        self,
        preprocessor=None,
        sequence_length=None,
        teacher_sequence_length=None,
        models=None,
        vocabulary_size=None,
        long_prompts="error",
    ):
        if preprocessor is not None:
            if not hasattr(preprocessor, "tokenizer"):
                raise TypeError(
                    "`preprocessor` must be a "
                    "`keras_hub.models.CausalLMPreprocessor`. Received: "
                    f"{preprocessor!r} of type {type(preprocessor).__name__}"
                )
            if sequence_length is None:
                sequence_length = preprocessor.sequence_length
        self.preprocessor = preprocessor
        self.models = models or {}
        self.vocabulary_size = vocabulary_size
        self.long_prompts = LongPrompts(long_prompts)
        self._set_length(sequence_length)
        if teacher_sequence_length is not None:
            self._check_length(
                teacher_sequence_length,
                "teacher_sequence_length",
                readers=("teacher",),
            )
            self.teacher_sequence_length = teacher_sequence_length

    def _set_length(self, sequence_length, name="sequence_length"):
        self.sequence_length = self.teacher_sequence_length = None
        if sequence_length is not None:
            self._check_length(sequence_length, name)
            self.sequence_length = sequence_length
            self.teacher_sequence_length = 2 * sequence_length

    def of_length(self, sequence_length, name):
        """A copy of this packer for rows of a different length.

        Args:
            sequence_length: int.
            name: str. The argument that it came from, for the errors.
        """
        packer = copy.copy(self)
        packer._set_length(sequence_length, name)
        return packer

    def without_skipping(self):
        """A copy of this packer that skips no row."""
        packer = copy.copy(self)
        if self.long_prompts.rule == "skip":
            packer.long_prompts = LongPrompts("error")
        return packer

    def _check_length(self, length, name, readers=("teacher", "student")):
        # At least a prompt token and a response token.
        check_integer(name, length, minimum=2)
        for owner, model in self.models.items():
            longest = getattr(model.backbone, "max_sequence_length", None)
            if owner in readers and longest and length > longest:
                raise ValueError(
                    f"`{name}` must be at most {longest}, the longest "
                    f"sequence that the {owner} can read. Received: {length}"
                )

    def __call__(self, batch):
        if not isinstance(batch, dict):
            raise TypeError(
                "Each element of the data must be a dict, such as "
                '{"prompts": [...], "responses": [...]}. Received: '
                f"{type(batch).__name__}"
            )
        check_keys(batch, strings=self.preprocessor is not None)
        batch = {key: to_array(key, value) for key, value in batch.items()}
        if self.preprocessor is None:
            packed = self._pack_token_ids(batch)
        else:
            packed = self._pack_strings(batch)
        self._check_models(packed)
        return packed

    def _pack_strings(self, batch):
        text = {key: to_strings(key, value) for key, value in batch.items()}
        count = len(text["prompts"])
        for key, values in text.items():
            if len(values) != count:
                raise ValueError(
                    f'"prompts" and "{key}" must have the same length. '
                    f"Received: {count} prompts and {len(values)} {key}."
                )
        rows = {key: self._tokenize(values) for key, values in text.items()}
        start = self._special_token("add_start_token", "start_token_id")
        lengths = {}
        for key in rows.keys() - {"responses"}:
            rows[key] = [start + row for row in rows[key]]
            lengths[key] = np.array([len(row) for row in rows[key]])
        kept, excess = self._fit(
            lengths["prompts"],
            lengths.get("teacher_prompts"),
            self.sequence_length,
            self.teacher_sequence_length,
            text["prompts"],
        )
        for key, amount in zip(("prompts", "teacher_prompts"), excess):
            for i in np.flatnonzero(amount):
                rows[key][i] = self.long_prompts.truncate(
                    rows[key][i], amount[i], len(start)
                )
        rows = {
            key: [row for row, keep in zip(values, kept) if keep]
            for key, values in rows.items()
        }
        return self._pad_rows(rows)

    def _pad_rows(self, rows):
        prompts = rows["prompts"]
        if "responses" not in rows:
            token_ids, padding_mask = _pad(prompts, self.sequence_length)
            packed = {"token_ids": token_ids, "padding_mask": padding_mask}
        else:
            end = self._special_token("add_end_token", "end_token_id")
            token_ids, padding_mask = _pad(
                [p + r + end for p, r in zip(prompts, rows["responses"])],
                self.sequence_length,
            )
            _, is_prompt = _pad(prompts, self.sequence_length)
            packed = {
                "token_ids": token_ids,
                "padding_mask": padding_mask,
                "response_mask": padding_mask & ~is_prompt,
            }
        if "teacher_prompts" in rows:
            token_ids, padding_mask = _pad(
                rows["teacher_prompts"], self.teacher_sequence_length
            )
            packed["teacher_token_ids"] = token_ids
            packed["teacher_padding_mask"] = padding_mask
        return packed

    def _pack_token_ids(self, batch):
        batch = self._lengthen(check_token_ids(batch))
        lengths, teacher_lengths = prompt_lengths(batch), None
        if "teacher_token_ids" in batch:
            teacher_lengths = batch["teacher_padding_mask"].sum(1)
        kept, excess = self._fit(
            lengths,
            teacher_lengths,
            batch["token_ids"].shape[1],
            batch.get("teacher_token_ids", batch["token_ids"]).shape[1],
        )
        for prefix, amount in zip(("", "teacher_"), excess):
            ids, mask = (
                batch[f"{prefix}token_ids"],
                batch[f"{prefix}padding_mask"],
            )
            for i in np.flatnonzero(amount):
                row = ids[i, mask[i]].tolist()
                row = self.long_prompts.truncate(row, amount[i])
                ids[i : i + 1], mask[i : i + 1] = _pad([row], ids.shape[1])
        return {key: value[kept] for key, value in batch.items()}

    def _lengthen(self, batch):
        """Pads rows that are shorter than `sequence_length`."""
        length = batch["token_ids"].shape[1]
        if self.sequence_length is None or length == self.sequence_length:
            return batch
        if length > self.sequence_length:
            raise ValueError(
                f"`sequence_length={self.sequence_length}` of the `Distiller` "
                'is shorter than "token_ids" of shape '
                f"{batch['token_ids'].shape}. Pass a larger "
                "`sequence_length`, or leave it out to follow the data."
            )
        lengthened = {}
        for key, value in batch.items():
            length = self.sequence_length
            if key.startswith("teacher_"):
                length = max(value.shape[1], self.teacher_sequence_length)
            padding = [(0, 0), (0, length - value.shape[1])]
            lengthened[key] = np.pad(value, padding)
        return lengthened

    def _fit(self, lengths, teacher_lengths, length, teacher_length, text=None):
        """Decides which rows are kept, and how many tokens prompts lose.

        Returns:
            `(kept, excess)`, the second a list of an array for the student's
            prompts and, if the teacher has its own, one for the teacher's.
        """
        empty = lengths == 0
        if empty.any():
            key = "token_ids" if text is None else "prompts"
            raise ValueError(
                f'"{key}" must have at least one token in every row. '
                f"Received: a prompt of 0 tokens in row {np.argmax(empty)}. "
                "Add a start token or some text."
            )

        def explain(row):
            shown = ""
            if text is not None:
                shown = text[row]
                shown = shown if len(shown) <= 40 else shown[:37] + "..."
                shown = f", {shown!r}"
            return (
                "A prompt leaves no room for a response. Received: "
                f"`sequence_length={length}` and a prompt of {lengths[row]} "
                f"tokens in row {row}{shown}. Shorten the prompt, pass a "
                "larger `sequence_length` to the `Distiller`, or have it skip "
                "or truncate such prompts with `long_prompts`."
            )

        kept, excess = self.long_prompts.fit(lengths, length - 1, explain)
        if teacher_lengths is None:
            return kept, [excess]
        response = length - (lengths - excess)

        def explain_teacher(row):
            needed = np.where(kept, teacher_lengths + response, 0)
            return (
                "Each of the teacher's prompts must have a token, and leave "
                "room for the student's response. Received: "
                f"`teacher_sequence_length={teacher_length}` and a teacher's "
                f"prompt of {teacher_lengths[row]} tokens in row {row}, with "
                f"a response of up to {response[row]} tokens. Pass "
                f"`teacher_sequence_length={int(needed.max())}` or more."
            )

        if (teacher_lengths == 0).any():
            raise ValueError(explain_teacher(int(np.argmin(teacher_lengths))))
        fits, teacher_excess = self.long_prompts.fit(
            teacher_lengths, teacher_length - response, explain_teacher
        )
        return kept & fits, [excess, teacher_excess]

    def _check_models(self, packed):
        hint = ""
        if self.preprocessor is not None:
            hint = " The `preprocessor` belongs to a different model."
        for prefix in ("", "teacher_"):
            key, mask = f"{prefix}token_ids", f"{prefix}padding_mask"
            if key not in packed:
                continue
            self._check_length(
                packed[key].shape[1],
                f"{prefix}sequence_length",
                readers=("teacher",) if prefix else ("teacher", "student"),
            )
            if self.vocabulary_size is not None:
                check_vocabulary(
                    packed[key], packed[mask], self.vocabulary_size, key, hint
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


def _pad(rows, length):
    """Returns rows of ids as an array, and its padding mask."""
    token_ids = np.zeros((len(rows), length), "int32")
    padding_mask = np.zeros((len(rows), length), "bool")
    for i, row in enumerate(rows):
        row = row[:length]
        token_ids[i, : len(row)] = row
        padding_mask[i, : len(row)] = True
    return token_ids, padding_mask
