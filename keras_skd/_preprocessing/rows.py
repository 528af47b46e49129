"""Converts rows to columns."""

import sys


def is_hf_dataset(data):
    """Whether data are a `datasets.Dataset`, if `datasets` is installed."""
    datasets = sys.modules.get("datasets")
    return datasets is not None and isinstance(data, datasets.Dataset)


def is_rows(data):
    """Whether data are a list with one dict for each row."""
    return isinstance(data, list) and all(isinstance(r, dict) for r in data)


def columns_of_rows(rows):
    """The columns of a list of dicts, with `None` for missing keys."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


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
