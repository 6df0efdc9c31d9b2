"""Data of a fit as JSON and plain arrays, and back; nothing is ever pickled."""

from __future__ import annotations

from typing import Any

import numpy as np

from bayes.columns import Column
from bayes.data import Data

__all__ = ["pack_data", "plain_array", "unpack_data"]


def pack_data(data: Data) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Arguments of a program as a JSON skeleton whose leaves are names of arrays.

    Returns
    -------
    skeleton : dict
        JSON values.
    arrays : dict of array
        Arrays by name, none of dtype object.
    """
    arrays: dict[str, np.ndarray] = {}

    def store(value: Any) -> dict[str, str]:
        name = f"leaf{len(arrays)}"
        arrays[name] = plain_array(value)
        return {"array": name}

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {"dict": {k: walk(v) for k, v in value.items()}}
        if isinstance(value, (list, tuple)):
            return {type(value).__name__: [walk(v) for v in value]}
        return store(value)

    columns: list[dict[str, Any]] = []
    for name, value in data.arguments.items():
        if name not in data.columns:
            columns.append({"name": name, "static": value})
            continue
        column = data.columns[name]
        entry = {"name": name, "value": walk(value)}
        if column.labels is not None and _kept(column.labels):
            entry["labels"] = store(column.labels)
        if column.levels is not None:
            entry["levels"] = store(column.levels)
        if column.dims is not None:
            entry["dims"] = list(column.dims)
        entry["coords"] = {k: store(v) for k, v in column.coords.items()}
        columns.append(entry)
    coords = {k: store(v) for k, v in data.coords.items()}
    return {"columns": columns, "coords": coords}, arrays


def _kept(labels: np.ndarray) -> bool:
    """Whether row labels are numbers, times or text; others are for messages only."""
    return labels.dtype != object or all(isinstance(v, str) for v in labels)


def plain_array(value: Any) -> np.ndarray:
    """An array with text in place of objects, which could only be pickled."""
    array = np.asarray(value)
    return array.astype(str) if array.dtype.kind in "OT" else array


def unpack_data(skeleton: dict[str, Any], arrays: dict[str, np.ndarray]) -> Data:
    """The inverse of :func:`pack_data`."""

    def walk(node: Any) -> Any:
        if "array" in node:
            return arrays[node["array"]]
        if "dict" in node:
            return {k: walk(v) for k, v in node["dict"].items()}
        if "list" in node:
            return [walk(v) for v in node["list"]]
        return tuple(walk(v) for v in node["tuple"])

    arguments: dict[str, Any] = {}
    columns: dict[str, Column] = {}
    for node in skeleton["columns"]:
        name = node["name"]
        if "static" in node:
            arguments[name] = node["static"]
            continue
        arguments[name] = value = walk(node["value"])
        found = {k: walk(node[k]) for k in ("labels", "levels") if k in node}
        dims = tuple(node["dims"]) if "dims" in node else None
        coords = {k: walk(v) for k, v in node["coords"].items()}
        missing = _missing(value)
        columns[name] = Column(name, value, dims=dims, coords=coords, missing=missing, **found)
    return Data(arguments, columns, {k: walk(v) for k, v in skeleton["coords"].items()})


def _missing(value: Any) -> np.ndarray:
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        return np.zeros(0, int)
    return np.unique(np.nonzero(np.atleast_1d(np.isnan(value)))[0])
