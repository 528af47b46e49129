"""Data that comes as rows, as columns."""

import sys


def is_hf_dataset(data):
    """Whether data are a `datasets.Dataset`, which need not be installed."""
    datasets = sys.modules.get("datasets")
    return datasets is not None and isinstance(data, datasets.Dataset)


def is_rows(data):
    """Whether data are a list with one dict for each row."""
    return isinstance(data, list) and all(isinstance(r, dict) for r in data)


def columns_of_rows(rows):
    """The columns of a list of dicts; `None` where a row has no such key."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def columns_of_hf_dataset(dataset, column_names):
    """The columns of a `datasets.Dataset` that are read.

    The others, which may be images, stay on the disk.
    """
    if dataset.format["type"] == "custom":
        # What its transform makes may have other columns.
        return dataset[:]
    # As plain lists, whatever else the format is.
    dataset = dataset.with_format(None)
    found = column_names.find(dataset.column_names)
    return {name: list(dataset[name]) for name in found.values()}
