"""A folder of zarr arrays to which a sampler writes its draws block by block."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bayes.errors import FileError
from bayes.files import write_atomic
from bayes.stored_draws import MARK, StoredDraws, read_mark

if TYPE_CHECKING:
    import zarr

__all__ = ["DrawStore", "digest"]

_SMALLEST, _LARGEST = 2**16, 2**18
"""Numbers of a chunk: 0.5 to 2 MB."""
_MOST_DRAWS, _PARTS, _LEAST_ELEMENTS = 512, 32, 256


def digest(*parts: Any) -> np.ndarray:
    """SHA-256 of arrays and JSON values, as 32 numbers that a sampler's state can hold."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            found.update(f"{part.shape}{part.dtype.str}".encode() + part.tobytes())
        else:
            found.update(json.dumps(part, sort_keys=True).encode())
    return np.frombuffer(found.digest(), np.uint8)


@dataclasses.dataclass(frozen=True)
class DrawStore:
    """A folder with an array of shape (chain, draw, ...) for every site.

    Draws are written at the place that the sampler's state says. A run that was killed and
    resumed writes the same rows again.

    Parameters
    ----------
    folder : path
        The folder; made with the first draws.
    run : array of 32 bytes
        Digest of what the run is. A folder of another run is refused.
    round : array of 32 bytes
        Digest of where its present draws began; they may begin anew.
    """

    folder: pathlib.Path
    run: np.ndarray
    round: np.ndarray

    @property
    def mark(self) -> dict[str, Any]:
        """What the folder says of the draws in it."""
        run, part = self.run.tobytes().hex(), self.round.tobytes().hex()
        return {"kind": "draws", "schema": 1, "run": run, "round": part}

    def require_own(self) -> None:
        """Refuse a folder that has anything but draws of this run.

        Raises
        ------
        FileError
            Names the folder.
        """
        if not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise FileError(f"{self.folder} is a file, and store= names a folder")
        if all(f.name.endswith(".part") for f in self.folder.iterdir()):
            return
        mark = read_mark(self.folder)
        if mark is None:
            raise FileError(
                f"{self.folder} is not overwritten: it is not a folder of draws of bayes; give "
                "store= a new folder"
            )
        if (mark.get("schema"), mark.get("run")) != (1, self.mark["run"]):
            raise FileError(
                f"{self.folder} is not overwritten: it holds draws of another run (its model, "
                "data, settings, seed or versions differ); give store= another folder, or remove "
                "this one"
            )

    def write(
        self, values: Mapping[str, np.ndarray], dims: Mapping[str, tuple[str, ...]], start: int
    ) -> None:
        """Write a block's draws behind those that are there.

        Parameters
        ----------
        values : mapping of array
            Draws by site, of shape (chain, draw, ...).
        dims : mapping
            Names of the site's own dimensions.
        start : int
            Draws before these. With 0 the arrays are made anew.

        Raises
        ------
        FileError
            Where the folder is another run's, or lacks the draws before these.
        """
        if start == 0:
            self.require_own()
            self.folder.mkdir(parents=True, exist_ok=True)
            self._put_mark()
            for name, value in values.items():
                self._create(name, value, dims[name])
        self._require_round()
        if "consolidated_metadata" in json.loads((self.folder / "zarr.json").read_bytes()):
            self._put_mark()  # what was put together when the run was stopped
        for name, value in values.items():
            array = self._open(name, start)
            stop = start + value.shape[1]
            array.resize((array.shape[0], stop, *array.shape[2:]))
            if value.size:
                array[:, start:stop] = value

    def finish(self, names: list[str], count: int) -> dict[str, StoredDraws]:
        """Cut the arrays to the final number of draws.

        Parameters
        ----------
        names : list of str
            The sites.
        count : int
            Draws a chain.

        Returns
        -------
        dict
            Draws by site, which are read from the folder.
        """
        import zarr

        self._require_round()
        for name in names:
            array = self._open(name, count)
            if array.shape[1] > count:
                array.resize((array.shape[0], count, *array.shape[2:]))
        with warnings.catch_warnings():
            # Zarr warns that this is not yet part of its third specification; xarray wants it.
            warnings.simplefilter("ignore", UserWarning)
            zarr.consolidate_metadata(self.folder)
        return {name: StoredDraws(self.folder, name, self.mark) for name in names}

    def _put_mark(self) -> None:
        group = {"zarr_format": 3, "node_type": "group", "attributes": {MARK: self.mark}}
        write_atomic(self.folder / "zarr.json", json.dumps(group, indent=1).encode())

    def _require_round(self) -> None:
        if read_mark(self.folder) != self.mark:
            raise FileError(
                f"{self.folder} does not have the draws so far: it was removed, or other draws "
                "were written there since; begin the run anew, with another checkpoint= if any"
            )

    def _open(self, name: str, least: int) -> zarr.Array:
        import zarr

        try:
            array = zarr.open_array(
                self.folder / name,
                mode="r+",
                zarr_format=3,
                config={"write_empty_chunks": True},
            )
        except Exception as error:  # damaged metadata fails in as many ways as there are fields
            raise FileError(
                f"the draws of '{name}' in {self.folder} cannot be read: "
                f"{type(error).__name__}: {error}"
            ) from error
        if array.shape[1] < least:
            raise FileError(
                f"{self.folder} has {array.shape[1]} draws of '{name}' where there should be "
                f"{least}: begin the run anew, with another checkpoint= if any"
            )
        return array

    def _create(self, name: str, value: np.ndarray, dims: tuple[str, ...]) -> None:
        import zarr
        from zarr.codecs import Crc32cCodec, ZstdCodec

        zarr.create_array(
            self.folder / name,
            shape=(value.shape[0], 0, *value.shape[2:]),
            chunks=_chunks(value.shape),
            dtype=value.dtype,
            compressors=(ZstdCodec(level=1), Crc32cCodec()),
            fill_value=np.nan if value.dtype.kind in "fc" else 0,
            dimension_names=("chain", "draw", *dims),
            zarr_format=3,
            overwrite=True,
        )


def _chunks(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of a chunk: a block's draws, or more where they are few, of a part of the elements.

    A block fills its chunks, as far as may be: one that is half full is read and written again.
    """
    chains, draws, *rest = shape
    chains = max(1, min(chains, 64))
    size = int(np.prod(rest, dtype=int))
    left = min(max(-(-size // _PARTS), _LEAST_ELEMENTS), _LARGEST // chains)
    sides: list[int] = []
    for length in reversed(rest):
        sides.insert(0, max(1, min(length, left)))
        left //= sides[0]
    row = chains * int(np.prod(sides, dtype=int))
    wanted = max(draws, min(_MOST_DRAWS, _SMALLEST // row))
    return (chains, max(1, min(wanted, _LARGEST // row)), *sides)
