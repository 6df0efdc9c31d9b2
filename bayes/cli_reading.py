"""What the command line reads: a model's Python file, tables and arguments."""

from __future__ import annotations

import json
import pathlib
import sys
import traceback
from typing import Any

from bayes.errors import BayesError, DataError, ModelError

__all__ = ["read_model", "read_module"]


def read_model(
    file: pathlib.Path, data: pathlib.Path | None, reparam: str | None
) -> tuple[Any, Any]:
    """The model of a Python file, and data: of a file of their own, or of its ``data()``."""
    from bayes.gallery import Entry

    module = read_module(file)
    entry = Entry(file.stem, module)
    model = entry.model if reparam is None else entry.model.replace(reparam=reparam)
    if data is not None:
        return model, _read_data(data)
    if not callable(getattr(module, "data", None)):
        raise DataError(f"{file} defines no function `data`; pass --data")
    try:
        return model, entry.data()
    except Exception as error:
        raise DataError(f"data() of {file} failed: {_said(error, file)}") from error


def read_module(file: pathlib.Path) -> Any:
    """A Python file that defines ``model``, imported; its folder is on the path."""
    from bayes.gallery import load_file

    if file.suffix != ".py" or not file.is_file():
        raise ModelError(f"{file} is not a Python file that exists")
    sys.path.insert(0, str(file.resolve().parent))
    try:
        module = load_file(file)
    except Exception as error:
        raise ModelError(f"{file} cannot be imported: {_said(error, file)}") from error
    if not callable(getattr(module, "model", None)):
        raise ModelError(f"{file} defines no function `model`")
    return module


def _said(error: Exception, file: pathlib.Path) -> str:
    """An error of the user's own code, with its line there."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if pathlib.Path(frame.filename) == file.resolve() or frame.filename == str(file)
    ]
    where = f" (line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {error}{where}"


def _read_data(path: pathlib.Path) -> Any:
    """A table or a JSON object of arguments; columns of strings are categories."""
    import pandas as pd

    if not path.is_file():
        raise DataError(f"{path} does not exist")
    readers = {".csv": pd.read_csv, ".parquet": pd.read_parquet, ".json": _read_json}
    if path.suffix not in readers:
        raise DataError(f"{path}: data are .csv, .json or .parquet")
    try:
        values = readers[path.suffix](path)
    except (ValueError, ImportError) as error:
        if isinstance(error, BayesError):
            raise
        raise DataError(f"{path} cannot be read: {error}") from error
    if isinstance(values, dict):
        return values
    strings = [n for n in values.columns if pd.api.types.is_string_dtype(values[n].dtype)]
    return values.astype({name: "category" for name in strings})


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    import pandas as pd

    values = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise DataError(f"{path} must hold a JSON object of arguments by name")
    for name, value in values.items():
        if isinstance(value, list) and any(isinstance(v, str) for v in value):
            values[name] = pd.Series(value).astype("category")
    return values
