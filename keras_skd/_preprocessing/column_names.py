"""The names of the columns that are read."""

import warnings

STRING_KEYS = ("prompts", "responses", "teacher_prompts", "messages")
TOKEN_KEYS = (
    "token_ids",
    "padding_mask",
    "response_mask",
    "teacher_token_ids",
    "teacher_padding_mask",
)


class ColumnNames:
    """Finds the columns of the data that a `Packer` reads.

    Other columns are ignored, which is reported once.

    Args:
        columns: dict from our names to the data's, for those that differ, or
            `None`.
        strings: bool. Whether the data should be strings, and not token ids.
    """

    def __init__(self, columns=None, strings=True):
        self.strings = strings
        self.keys = STRING_KEYS if strings else TOKEN_KEYS
        self.columns = self._check(columns or {})
        self._reported = set()

    def _check(self, columns):
        if not isinstance(columns, dict):
            raise TypeError(
                "`columns` must be a dict from the names of the `Distiller` "
                'to those of the data, such as {"prompts": "question"}. '
                f"Received: {columns!r} of type {type(columns).__name__}"
            )
        unknown = [key for key in columns if key not in self.keys]
        if unknown:
            raise ValueError(
                f"The keys of `columns` must be among {list(self.keys)}, and "
                "its values the names in the data. Received: "
                f"columns={columns!r}"
            )
        for key, name in columns.items():
            if not isinstance(name, str):
                raise TypeError(
                    f'`columns["{key}"]` must be the name of a column, a '
                    f"string. Received: {name!r}"
                )
        return columns

    def find(self, names):
        """Finds our columns among those of the data.

        Args:
            names: iterable of the names in the data.

        Returns:
            dict from our names to the data's.
        """
        names = list(names)
        # Data may use our own names instead.
        columns = self.columns
        if not {*columns.values()} & {*names}:
            columns = {}
        for key, name in columns.items():
            if name not in names:
                raise ValueError(
                    f'`columns["{key}"]` is {name!r}, and the data has no such '
                    f"column. Columns found: {sorted(names, key=str)}"
                )
        others = {*self.keys} - {*columns} - {*columns.values()}
        if "messages" in columns:
            others -= {"prompts", "responses"}
        elif "prompts" in columns:
            others -= {"messages"}
        found = {
            key: columns.get(key, key)
            for key in self.keys
            if key in columns or (key in others and key in names)
        }
        self._check_found(found, names)
        self._report([n for n in names if n not in found.values()])
        return found

    def select(self, batch):
        """The columns of a batch that are read, under our names."""
        found = self.find(batch)
        return {key: batch[name] for key, name in found.items()}

    def _check_found(self, found, names):
        kind, other = "token ids", STRING_KEYS
        needed = [key for key in TOKEN_KEYS[:2] if key not in found]
        hint = (
            " To pass strings, give the `Distiller` or its student a "
            "`preprocessor`."
        )
        if self.strings:
            kind, other = "strings", TOKEN_KEYS
            needed = [] if {"prompts", "messages"} & {*found} else ["prompts"]
            hint = " To pass token ids, use models without a `preprocessor`."
        if needed:
            raise ValueError(
                f"The data must be {kind}, a dict of {list(self.keys)}: "
                f"{needed} is missing. Columns found: "
                f"{sorted(names, key=str)}. If one of them is meant, name it "
                'in `columns`, as in `Distiller(columns={"'
                f'{needed[0]}": ...}})`.'
                + (hint if {*names} & {*other} else "")
            )
        for key in ("prompts", "responses"):
            if {key, "messages"} <= {*found}:
                raise ValueError(
                    f'"messages" hold the prompts and the responses, and the '
                    f'data has "{key}", too. Say which to read, as in '
                    '`Distiller(columns={"messages": "messages"})`. Columns '
                    f"found: {sorted(names, key=str)}"
                )

    def _report(self, ignored):
        ignored = tuple(sorted(map(str, ignored)))
        if ignored and ignored not in self._reported:
            self._reported.add(ignored)
            warnings.warn(
                f"The data has columns that are not read: {list(ignored)}. "
                f"The columns that are read are {list(self.keys)}; use "
                "`Distiller(columns=...)` if they have different names.",
                stacklevel=2,
            )
