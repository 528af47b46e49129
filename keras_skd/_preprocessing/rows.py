"""Converts rows, tables and prompts alone to a dict of columns."""

import sys


def is_hf_dataset(data):
    """Whether data are a `datasets.Dataset`, if `datasets` is installed."""
    datasets = sys.modules.get("datasets")
    return datasets is not None and isinstance(data, datasets.Dataset)


def is_data_frame(data):
    """Whether data are a `pandas.DataFrame`, if `pandas` is installed."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(data, pandas.DataFrame)


def is_prompts(data):
    """Whether data are prompts alone: a list, an array or a tensor of strings.

    No tuple is: Keras reads tuples as `x`, `y` and `sample_weight`.
    """
    if hasattr(data, "dtype"):
        # The second is TensorFlow's.
        is_text = getattr(data.dtype, "kind", None) in ("O", "S", "U")
        return is_text or getattr(data.dtype, "name", None) == "string"
    is_list = isinstance(data, list) and len(data) > 0
    return is_list and all(isinstance(row, (str, bytes)) for row in data)


def is_rows(data):
    """Whether data are a list with one dict for each row."""
    return isinstance(data, list) and all(isinstance(r, dict) for r in data)


def columns_of_rows(rows):
    """The columns of a list of dicts, with `None` for missing keys."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def columns_of_data_frame(frame):
    """The columns of a `pandas.DataFrame`, with `None` for missing values."""
    return {
        name: column.where(column.notna(), None).tolist()
        for name, column in frame.astype(object).items()
    }


def columns_of_hf_dataset(dataset, column_names):
    """The columns of a `datasets.Dataset` that are read.

    The other columns, for example images, are not loaded.
    """
    if dataset.format["type"] == "custom":
        # The output of its transform may have different columns.
        return dataset[:]
    # Without a format, the columns are plain lists.
    dataset = dataset.with_format(None)
    found = column_names.find(dataset.column_names)
    return {name: list(dataset[name]) for name in found.values()}
