"""Arrays, and JSON values on them, in one sealed safetensors file; never half written."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from bayes.errors import FileError

__all__ = ["TensorFile", "write_tensors"]

_KEY, _SEAL, _TYPES = "bayes", "sha256", "types"
_LARGEST_HEADER = 2**24
"""Bytes of names, shapes and JSON values; more are those of no file of ours."""
_MAPPED = 2**23
"""Bytes from which on an array stays on disk, and is read where it is used."""
_NAMES = {
    "BOOL": "?",
    **{f"{letter}{8 * n}": f"<{letter.lower()}{n}" for letter in "IF" for n in (2, 4, 8)},
    **{f"U{8 * n}": f"<u{n}" for n in (2, 4, 8)},
    "I8": "|i1",
    "U8": "|u1",
}
"""NumPy's types by the names of safetensors."""
_VIEWS = {"U": "<u4", "S": "|u1", "M": "<i8", "m": "<i8", "c": None}
"""What is stored of text, times and complex numbers, which safetensors does not know."""


class _Place(NamedTuple):
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int


@dataclasses.dataclass(frozen=True)
class TensorFile:
    """A safetensors file whose header has been read, and nothing else.

    Parameters
    ----------
    path : path
        The file.
    card : dict
        JSON values; not to be trusted before :meth:`read` has compared the seal.
    """

    path: pathlib.Path
    card: dict[str, Any]
    _places: dict[str, _Place] = dataclasses.field(repr=False)

    @classmethod
    def open(cls, path: pathlib.Path) -> TensorFile:
        """Read the header of a file.

        Raises
        ------
        FileError
            Where it is missing, cut short, no safetensors file, or not one of bayes.
        """
        if not path.is_file():
            raise FileError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}")
        header, start = _header(path)
        metadata = header.pop("__metadata__", None) or {}
        try:
            card = json.loads(metadata[_KEY])
        except KeyError:
            raise FileError(f"{path} is a safetensors file of another program") from None
        except (TypeError, ValueError) as error:
            raise FileError(f"{path} is damaged: its description is no JSON") from error
        if not isinstance(card, dict):
            raise FileError(f"{path} is damaged: its description is no JSON object")
        return cls(path, card, {name: _place(path, name, v, start) for name, v in header.items()})

    def read(self) -> dict[str, np.ndarray]:
        """The arrays, once the seal agrees; large ones stay on disk and are read-only.

        Raises
        ------
        FileError
            Where what is stored is not what was written.
        """
        stored = {name: _stored(self.path, place) for name, place in self._places.items()}
        card = {k: v for k, v in self.card.items() if k != _SEAL}
        if self.card.get(_SEAL) != _seal(card, stored):
            raise FileError(f"{self.path} is damaged: its checksum does not agree")
        types = self.card.get(_TYPES, {})
        try:
            return {n: _as_type(v, types[n]) if n in types else v for n, v in stored.items()}
        except (TypeError, ValueError) as error:  # written by hand
            raise FileError(f"{self.path} has types that its arrays have not: {error}") from error


def write_tensors(
    path: pathlib.Path, arrays: Mapping[str, np.ndarray], card: Mapping[str, Any]
) -> None:
    """Write arrays and JSON values so that a crash leaves the old file or the new one.

    Parameters
    ----------
    path : path
        The file.
    arrays : mapping of array
        Numbers, text, times; none of dtype object.
    card : mapping
        JSON values; ``sha256`` and ``types`` are added.

    Raises
    ------
    FileError
        Where that is too much for a header, or the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    stored, types = {}, {}
    for name, value in arrays.items():
        stored[name] = _plain(np.asarray(value))
        if np.asarray(value).dtype.kind in _VIEWS:
            types[name] = np.asarray(value).dtype.newbyteorder("<").str
    whole = json.loads(json.dumps({**card, _TYPES: types}))
    text = json.dumps({**whole, _SEAL: _seal(whole, stored)}, sort_keys=True)
    if len(text) > _LARGEST_HEADER // 2:
        raise FileError(
            f"{path} is not written: data of so many columns, or settings of such a size, do not "
            f"fit into its header ({len(text)} bytes, at most {_LARGEST_HEADER // 2})"
        )
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(temporary, "xb") as file:
            mode = os.fstat(file.fileno()).st_mode
        save_file(stored, temporary, {_KEY: text})
        os.chmod(temporary, mode)  # safetensors would keep it from other users
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except SafetensorError as error:
        raise FileError(f"{path} cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


# ----------------------------------------------------------------------- reading


def _header(path: pathlib.Path) -> tuple[dict[str, Any], int]:
    """The header, which safetensors has found to fit the file, and where arrays begin."""
    from safetensors import SafetensorError, safe_open

    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _LARGEST_HEADER or 8 + length > path.stat().st_size:
            raise FileError(f"{path} is cut short, or no safetensors file")
        text = file.read(length)
    try:
        with safe_open(path, "numpy"):
            pass
        header = json.loads(text)
    except (SafetensorError, ValueError) as error:
        raise FileError(f"{path} is damaged, or no safetensors file: {error}") from error
    return header, 8 + length


def _place(path: pathlib.Path, name: str, entry: Mapping[str, Any], start: int) -> _Place:
    if entry["dtype"] not in _NAMES:
        raise FileError(f"{path} is damaged: array '{name}' has the type {entry['dtype']}")
    dtype = np.dtype(_NAMES[entry["dtype"]])
    return _Place(dtype, tuple(entry["shape"]), start + entry["data_offsets"][0])


def _stored(path: pathlib.Path, place: _Place) -> np.ndarray:
    count = int(np.prod(place.shape, dtype=np.int64))
    if count * place.dtype.itemsize >= _MAPPED:
        mapped = np.memmap(path, place.dtype, "r", place.start, place.shape)
        return mapped.view(np.ndarray)
    with open(path, "rb") as file:
        file.seek(place.start)
        return np.fromfile(file, place.dtype, count).reshape(place.shape)


def _seal(card: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of values, names, types, shapes and bytes."""
    digest = hashlib.sha256(json.dumps(card, sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
        digest.update(array.reshape(-1))
    return digest.hexdigest()


# ------------------------------------------------------------------------- types


def _plain(array: np.ndarray) -> np.ndarray:
    """An array of numbers in the machine's order; text and times by their bytes, an axis more."""
    kind = array.dtype.kind
    if kind in "US" and not array.dtype.itemsize:
        array = array.astype(f"<{kind}1")
    array = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
    if kind not in _VIEWS:
        return array
    view = _VIEWS[kind] or f"<f{array.dtype.itemsize // 2}"
    return array.reshape(*array.shape, 1).view(view)


def _as_type(array: np.ndarray, dtype: str) -> np.ndarray:
    """The inverse of :func:`_plain`."""
    if np.dtype(dtype).kind not in _VIEWS:
        raise ValueError(f"{dtype} is stored as it is")
    return np.asarray(array, order="C").view(dtype).reshape(array.shape[:-1])
