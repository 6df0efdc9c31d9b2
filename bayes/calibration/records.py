"""A folder of finished simulations, from which a run that was stopped goes on."""

from __future__ import annotations

import io
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from bayes.calibration.ranks import FIELDS
from bayes.calibration.simulation import Record
from bayes.errors import FileError
from bayes.files import checksum, read_manifest, write_atomic, write_manifest
from bayes.fingerprint import model_difference

__all__ = ["Records"]

_KIND, _SCHEMA = "calibration", 1
_NAME = re.compile(r"simulation(\d{7})-([0-9a-f]{64})\.npz")
_WORDS = {
    "data": "the data or the program that draws them differ",
    "method": "the method differs",
    "settings": "the method's settings differ",
    "seed": "the seed differs",
    "quantities": "the quantities to be ranked differ",
    "versions": "package versions differ, so the draws would",
}


class Records:
    """A folder with a file for every finished simulation, by custom empty at first.

    The name of a file ends with the checksum of its content, and the manifest says what run it is
    of. Both are written whole or not at all.

    Parameters
    ----------
    path : path
        The folder; made where absent.
    identity : mapping
        What the run is, as JSON values.

    Raises
    ------
    FileError
        Where the folder is damaged, foreign or of another run.
    """

    def __init__(self, path: str | os.PathLike, identity: Mapping[str, Any]) -> None:
        self.folder = pathlib.Path(path)
        self.folder.mkdir(parents=True, exist_ok=True)
        # A process may have died while it wrote the first file.
        if all(f.name == "manifest.json.part" for f in self.folder.iterdir()):
            manifest = {"kind": _KIND, "schema": _SCHEMA, "identity": dict(identity)}
            write_manifest(self.folder, manifest)
        self._compare(read_manifest(self.folder, _KIND, _SCHEMA)["identity"], identity)

    def load(self) -> dict[int, Record]:
        """The simulations that are finished, by number."""
        found = {}
        for file in self.folder.iterdir():
            match = _NAME.fullmatch(file.name)
            if match is None:
                continue
            content = file.read_bytes()
            if checksum(content) != match[2]:
                raise FileError(f"{file} is damaged: remove it to run its simulation again")
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                values = {f: arrays[f] for f in FIELDS if f in arrays.files}
                about = str(arrays["failure"]), float(arrays["seconds"])
            found[int(match[1])] = Record(int(match[1]), values, *about)
        return found

    def save(self, record: Record) -> None:
        """Add a simulation."""
        about = {"failure": np.asarray(record.failure), "seconds": np.asarray(record.seconds)}
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **record.values, **about)
        content = buffer.getvalue()
        name = f"simulation{record.number:07d}-{checksum(content)}.npz"
        write_atomic(self.folder / name, content)

    def _compare(self, saved: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
        difference = model_difference(saved["model"], identity["model"])
        words = [difference] if difference is not None else []
        words += [text for key, text in _WORDS.items() if saved[key] != identity[key]]
        if words:
            raise FileError(f"{self.folder} holds the simulations of another run: {words[0]}")
