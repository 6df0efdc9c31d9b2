"""Files written whole or not at all, and read only after their checksums agree."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from bayes.errors import FileError

__all__ = [
    "checksum",
    "files_of",
    "read_arrays",
    "read_checked",
    "read_manifest",
    "verify_files",
    "write_arrays",
    "write_atomic",
    "write_manifest",
]

_MANIFEST = "manifest.json"


def checksum(content: bytes) -> str:
    """SHA-256 of a file's content."""
    return hashlib.sha256(content).hexdigest()


def write_atomic(path: pathlib.Path, content: bytes) -> None:
    """Write a file so that a crash leaves the old one or the new one."""
    temporary = path.with_name(path.name + ".part")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_arrays(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> str:
    """Write arrays as npz without pickle; returns the file's checksum."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    content = buffer.getvalue()
    write_atomic(path, content)
    return checksum(content)


def read_checked(path: pathlib.Path, expected: str) -> bytes:
    """A file's content, once its checksum agrees.

    Raises
    ------
    FileError
        Where the file is missing or damaged.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise FileError(f"{path.name} is missing from {path.parent}") from None
    if checksum(content) != expected:
        raise FileError(f"{path.name} in {path.parent} is damaged: its checksum does not agree")
    return content


def read_arrays(path: pathlib.Path, expected: str) -> dict[str, np.ndarray]:
    """Arrays of an npz file, once its checksum agrees."""
    with np.load(io.BytesIO(read_checked(path, expected)), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def write_manifest(folder: pathlib.Path, manifest: Mapping[str, Any]) -> None:
    """Write a folder's manifest with a checksum of its own as its last line."""
    body = json.dumps(manifest, indent=1, sort_keys=True).encode()
    write_atomic(folder / _MANIFEST, body + b"\n" + checksum(body).encode() + b"\n")


def read_manifest(folder: pathlib.Path, kind: str, schema: int) -> dict[str, Any]:
    """Read a folder's manifest.

    Parameters
    ----------
    folder : path
        The folder.
    kind : str
        What it must be a manifest of.
    schema : int
        Newest version that can be read.

    Raises
    ------
    FileError
        Where the folder is foreign, damaged or newer.
    """
    path = folder / _MANIFEST
    if not folder.exists():
        raise FileError(f"{folder} does not exist")
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise FileError(f"{folder} is not a {kind} of bayes: it has no {_MANIFEST}") from None
    body, _, seal = content.rstrip(b"\n").rpartition(b"\n")
    if not _is_seal(seal) and b'"kind"' not in content:
        raise FileError(f"{folder} is not a {kind} of bayes: its {_MANIFEST} is another program's")
    if checksum(body).encode() != seal or not content.endswith(b"\n"):
        raise FileError(f"{_MANIFEST} of {folder} is damaged: its checksum does not agree")
    try:
        manifest = json.loads(body)
    except ValueError as error:
        raise FileError(f"{_MANIFEST} of {folder} is not JSON: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("kind") != kind:
        raise FileError(f"{folder} is not a {kind} of bayes")
    found = manifest.get("schema")
    if not isinstance(found, int) or found < 1:
        raise FileError(f"{_MANIFEST} of {folder} has no schema version")
    if found > schema:
        raise FileError(
            f"{folder} has schema {found}, newer than this version of bayes can read ({schema}): "
            "update bayes"
        )
    return manifest


def _is_seal(line: bytes) -> bool:
    return len(line) == 64 and not line.strip(b"0123456789abcdef")


def files_of(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Every file in a folder but its manifest, by its path there."""
    return {
        f.relative_to(folder).as_posix(): f
        for f in sorted(folder.rglob("*"))
        if (f.is_symlink() or not f.is_dir()) and f.name != ".DS_Store" and f != folder / _MANIFEST
    }


def verify_files(folder: pathlib.Path, expected: Mapping[str, str]) -> None:
    """Compare a folder with the names and checksums of its manifest.

    Raises
    ------
    FileError
        Names a file that is missing, damaged or not of the folder.
    """
    present = files_of(folder)
    missing = sorted(set(expected) - set(present))
    if missing:
        raise FileError(f"{folder} is damaged: {missing[0]} is missing")
    # Zarr would read a chunk that was left out for being empty; a link may lead elsewhere.
    foreign = sorted(n for n, f in present.items() if n not in expected or f.is_symlink())
    if foreign:
        raise FileError(f"{folder} has a file that is not its own: {foreign[0]}")
    for name, seal in expected.items():
        if checksum(present[name].read_bytes()) != seal:
            raise FileError(f"{folder} is damaged: the checksum of {name} does not agree")
