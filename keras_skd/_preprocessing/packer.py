import copy

import numpy as np

from keras_skd._checks import check_integer
from keras_skd._preprocessing.chats import Chats
from keras_skd._preprocessing.column_names import ColumnNames
from keras_skd._preprocessing.columns import pad_token_ids
from keras_skd._preprocessing.columns import to_array
from keras_skd._preprocessing.columns import to_chats
from keras_skd._preprocessing.columns import to_strings
from keras_skd._preprocessing.empty_rows import EmptyRows
from keras_skd._preprocessing.long_prompts import LongPrompts
from keras_skd._preprocessing.row_report import RowCounts
from keras_skd._preprocessing.token_ids import check_token_ids
from keras_skd._preprocessing.token_ids import check_vocabulary
from keras_skd._preprocessing.token_ids import prompt_lengths


class Packer:
    """Packs prompts and responses into rows of one length.

    A row is the start token (if the preprocessor adds one), the prompt, the
    response and, after a response, the end token. Prompt and response are
    tokenized separately, as KerasHub does it. A response that is too long is
    truncated. A chat is what its template makes of it: nothing is added.

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
        empty_rows: `"keep"`, `"skip"` or `"error"`, what happens to rows
            without a prompt or a response. Defaults to `"keep"`.
        columns: dict from the names below to the data's, for those that
            differ. Defaults to `None`.
        chat_template, teacher_chat_template, assistant_turns: as of `Chats`.

    Call arguments:
        batch: dict of lists or arrays. With a preprocessor, strings as
            `"prompts"` and optionally `"responses"` and `"teacher_prompts"`, or
            lists of messages as `"messages"`. Without one, `"token_ids"`,
            `"padding_mask"` and optionally `"response_mask"`, of shape
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
        empty_rows="keep",
        columns=None,
        chat_template=None,
        teacher_chat_template=None,
        assistant_turns="last",
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
        # For the config of a distiller.
        self.options = {
            "long_prompts": long_prompts,
            "empty_rows": empty_rows,
            "columns": columns,
            "chat_template": chat_template,
            "teacher_chat_template": teacher_chat_template,
            "assistant_turns": assistant_turns,
        }
        self.preprocessor = preprocessor
        self.models = models or {}
        self.vocabulary_size = vocabulary_size
        self.long_prompts = LongPrompts(long_prompts)
        self.empty_rows = EmptyRows(empty_rows)
        self.column_names = ColumnNames(columns, preprocessor is not None)
        self.chats = Chats(
            getattr(preprocessor, "tokenizer", None),
            chat_template,
            teacher_chat_template,
            assistant_turns,
        )
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
        if self.empty_rows.rule == "skip":
            packer.empty_rows = EmptyRows("error")
        return packer

    @property
    def skips(self):
        """Whether there may be fewer rows out than in."""
        return "skip" in (self.long_prompts.rule, self.empty_rows.rule)

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
        return self.pack(batch)[0]

    def pack(self, batch):
        """Packs a batch, as a call does.

        Returns:
            `(packed, counts)`, the second the `RowCounts` of the batch.
        """
        if not isinstance(batch, dict):
            raise TypeError(
                "Each element of the data must be a dict, such as "
                '{"prompts": [...], "responses": [...]}. Received: '
                f"{type(batch).__name__}"
            )
        batch = self.column_names.select(batch)
        chats = batch.pop("messages", None)
        if self.preprocessor is None:
            batch = pad_token_ids(batch)
        batch = {key: to_array(key, value) for key, value in batch.items()}
        if self.preprocessor is None:
            packed, counts = self._pack_token_ids(batch)
        else:
            packed, counts = self._pack_strings(batch, chats)
        self._check_models(packed)
        return packed, counts

    def _pack_strings(self, batch, chats):
        text = {key: to_strings(key, value) for key, value in batch.items()}
        rows = {key: self._tokenize(values) for key, values in text.items()}
        start = self._special_token("add_start_token", "start_token_id")
        for key in rows.keys() - {"responses"}:
            rows[key] = [start + row for row in rows[key]]
        if chats is not None:
            chats = to_chats(chats)
            rows = {**self.chats(chats), **rows}
            if not any(rows["responses"]):
                # No chat ends with an answer.
                del rows["responses"], rows["trained"]
            text = {"messages": [chat[-1:] for chat in chats], **text}
        _check_lengths(text)
        lengths = {
            key: np.array([len(row) for row in rows[key]])
            for key in ("prompts", "teacher_prompts")
            if key in rows
        }
        kept, excess, counts = self._fit(
            lengths["prompts"],
            lengths.get("teacher_prompts"),
            self.sequence_length,
            self.teacher_sequence_length,
            text.get("prompts", text.get("messages")),
            self._without_text(rows),
        )
        for key, amount in zip(("prompts", "teacher_prompts"), excess):
            for i in np.flatnonzero(amount):
                row = rows[key][i]
                rows[key][i] = self.long_prompts.truncate(
                    row, amount[i], int(row[0] == self._start_token_id)
                )
        rows = {
            key: [row for row, keep in zip(values, kept) if keep]
            for key, values in rows.items()
        }
        return self._pad_rows(rows), counts

    def _without_text(self, rows):
        """Whether the response of each row is empty, up to its end."""
        if "responses" not in rows:
            return None
        ends = {*self.chats.end_of_turn_ids} if "trained" in rows else set()
        return np.array([not {*row} - ends for row in rows["responses"]])

    def _pad_rows(self, rows):
        prompts = rows["prompts"]
        if "responses" not in rows:
            token_ids, padding_mask = _pad(prompts, self.sequence_length)
            packed = {"token_ids": token_ids, "padding_mask": padding_mask}
        else:
            end = self._special_token("add_end_token", "end_token_id")
            if "trained" in rows and self.chats.end_of_turn_ids:
                end = []  # There is one.
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
        if "trained" in rows:
            trained, _ = _pad(
                [
                    [1] * len(prompt) + row + [1] * len(end)
                    for prompt, row in zip(prompts, rows["trained"])
                ],
                self.sequence_length,
            )
            packed["response_mask"] &= trained.astype("bool")
        if "teacher_prompts" in rows:
            self._check_one_response()
            token_ids, padding_mask = _pad(
                rows["teacher_prompts"], self.teacher_sequence_length
            )
            packed["teacher_token_ids"] = token_ids
            packed["teacher_padding_mask"] = padding_mask
        return packed

    def _pack_token_ids(self, batch):
        gaps = self.chats.assistant_turns == "all"
        batch = self._lengthen(check_token_ids(batch, gaps))
        lengths, teacher_lengths = prompt_lengths(batch), None
        if "teacher_token_ids" in batch:
            self._check_one_response()
            teacher_lengths = batch["teacher_padding_mask"].sum(1)
        kept, excess, counts = self._fit(
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
        return {key: value[kept] for key, value in batch.items()}, counts

    def _check_one_response(self):
        if self.chats.assistant_turns == "all":
            raise ValueError(
                '`assistant_turns="all"` does not support the teacher\'s own '
                "prompts, since the turns would be at different positions. "
                "Leave them out of the data, or train on the last turn "
                '(`"last"`).'
            )

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

    def _fit(
        self,
        lengths,
        teacher_lengths,
        length,
        teacher_length,
        shown=None,
        without_text=None,
    ):
        """Decides which rows are kept, and how many tokens prompts lose.

        Args:
            lengths, teacher_lengths: int arrays of shape `(batch,)`, those of
                the prompts; the second may be `None`.
            length, teacher_length: ints, those of the rows.
            shown: list of what errors show of each prompt, or `None`.
            without_text: bool array of shape `(batch,)`, which responses are
                empty. Defaults to `None`, none.

        Returns:
            `(kept, excess, counts)`, the second a list of an array for the
            student's prompts and, if the teacher has its own, one for the
            teacher's, the third the `RowCounts`.
        """
        key = "token_ids" if shown is None else "prompts"
        if without_text is None:
            without_text = np.zeros(len(lengths), "bool")
        empty = self.empty_rows.find(lengths, without_text, key)
        # An empty row leaves room for anything.
        lengths = np.where(empty, 1, lengths)

        def explain(row):
            prompt = ""
            if shown is not None:
                prompt = f", {shown[row]!r:.42}"
            return (
                "A prompt leaves no room for a response. Received: "
                f"`sequence_length={length}` and a prompt of {lengths[row]} "
                f"tokens in row {row}{prompt}. Shorten the prompt, pass a "
                "larger `sequence_length` to the `Distiller`, or have it skip "
                "or truncate such prompts with `long_prompts`."
            )

        kept, excess = self.long_prompts.fit(lengths, length - 1, explain)
        if teacher_lengths is None:
            return kept & ~empty, [excess], _counts(kept, empty, without_text)
        teacher_lengths = np.where(empty, 1, teacher_lengths)
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
        kept &= fits
        excess = [excess, teacher_excess]
        return kept & ~empty, excess, _counts(kept, empty, without_text)

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

    @property
    def _start_token_id(self):
        return getattr(self.preprocessor.tokenizer, "start_token_id", None)


def _check_lengths(text):
    """Checks that all columns have a value for each row."""
    first, *others = text
    for key in others:
        if len(text[key]) != len(text[first]):
            raise ValueError(
                f'"{first}" and "{key}" must have the same length. Received: '
                f"{len(text[first])} {first} and {len(text[key])} {key}."
            )


def _counts(fits, empty, without_text):
    """What is skipped and kept, of all rows of a batch."""
    return RowCounts(
        long=int((~fits & ~empty).sum()),
        empty=int(empty.sum()),
        silent=int((fits & without_text & ~empty).sum()),
        total=len(empty),
    )


def _pad(rows, length):
    """Returns rows of ids as an array, and its padding mask."""
    token_ids = np.zeros((len(rows), length), "int32")
    padding_mask = np.zeros((len(rows), length), "bool")
    for i, row in enumerate(rows):
        row = row[:length]
        token_ids[i, : len(row)] = row
        padding_mask[i, : len(row)] = True
    return token_ids, padding_mask
