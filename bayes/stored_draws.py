"""Draws of a site that stay in a zarr folder, read from there as they are asked for."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from bayes.errors import FileError

if TYPE_CHECKING:
    import xarray as xr
    import zarr

__all__ = ["MARK", "StoredDraws", "lazy_variable", "read_mark"]

MARK = "bayes"
"""Attribute of the folder's group that says whose draws it holds."""
_AT_ONCE = 2**24
"""Numbers that are read at once: 128 MB."""


def read_mark(folder: pathlib.Path) -> dict[str, Any] | None:
    """What a folder says of the run whose draws it holds; None where it is no such folder."""
    try:
        mark = json.loads((folder / "zarr.json").read_bytes())["attributes"][MARK]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return mark if isinstance(mark, dict) and mark.get("kind") == "draws" else None


class StoredDraws:
    """Draws of a site in a zarr folder, as an array of shape (chain, draw, *site shape).

    Nothing is held in memory: every access reads what it asks for, and compares checksums.

    Parameters
    ----------
    folder : path
        The folder.
    name : str
        The site.
    mark : dict
        What the folder says of its run; once it says otherwise, these draws are no longer there.

    Raises
    ------
    FileError
        Here and whenever it is read: where draws are missing, damaged or of another run.
    """

    def __init__(self, folder: pathlib.Path, name: str, mark: dict[str, Any]) -> None:
        # A later change of the working directory must not lead elsewhere.
        self.folder, self.name, self.mark = pathlib.Path(os.path.abspath(folder)), name, mark
        array = self._open()
        self.shape: tuple[int, ...] = tuple(array.shape)
        self.dtype = np.dtype(array.dtype)
        self._chunks: tuple[int, ...] = tuple(array.chunks)

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of numbers."""
        return int(np.prod(self.shape, dtype=int))

    def __repr__(self) -> str:
        return f"StoredDraws('{self.name}', shape={self.shape}, folder='{self.folder}')"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[...], dtype=dtype)

    def __getitem__(self, key: Any) -> np.ndarray:
        """Read a part; arrays of indices select each along its own dimension."""
        array = self._open()
        if tuple(array.shape) != self.shape:
            raise FileError(
                f"the draws of '{self.name}' in {self.folder} have been written anew: they have "
                f"shape {tuple(array.shape)} and had {self.shape}"
            )
        try:
            return np.asarray(array.oindex[key])
        except IndexError:
            raise
        except Exception as error:  # whatever a codec says to bits that are not its own
            raise FileError(
                f"the draws of '{self.name}' in {self.folder} are damaged: "
                f"{type(error).__name__}: {error}"
            ) from error

    def elements(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All draws of some elements at a time, which fit in memory.

        Yields
        ------
        places : array of int, shape (k,)
            Which elements of the flattened site.
        values : array of shape (chain, draw, k)
            Their draws.
        """
        rest = self.shape[2:]
        order = np.arange(int(np.prod(rest, dtype=int))).reshape(rest)
        for box in _boxes(rest, self._lengths()):
            values = self[(slice(None), slice(None), *box)]
            yield order[box].reshape(-1), values.reshape(*self.shape[:2], -1)

    def _lengths(self) -> list[int]:
        """Sides of the boxes of elements: those of a chunk, or less where they hold too much."""
        lengths = list(self._chunks[2:])
        rows = self.shape[0] * self.shape[1]
        while lengths and rows * np.prod(lengths) > _AT_ONCE and max(lengths) > 1:
            longest = int(np.argmax(lengths))
            lengths[longest] = -(-lengths[longest] // 2)
        return lengths

    def _open(self) -> zarr.Array:
        import zarr

        if read_mark(self.folder) != self.mark:
            raise FileError(
                f"{self.folder} no longer has the draws of '{self.name}': it was removed, or "
                "another run has written there"
            )
        try:
            # A chunk that is missing would be read as one that was never written.
            with zarr.config.set({"array.read_missing_chunks": False}):
                return zarr.open_array(self.folder / self.name, mode="r", zarr_format=3)
        except Exception as error:  # damaged metadata fails in as many ways as there are fields
            raise FileError(
                f"the draws of '{self.name}' in {self.folder} cannot be read: "
                f"{type(error).__name__}: {error}"
            ) from error


def _boxes(shape: tuple[int, ...], lengths: list[int]) -> Iterator[tuple[slice, ...]]:
    """Parts of a shape, of sides as given, that cover it."""
    counts = [-(-n // length) for n, length in zip(shape, lengths, strict=True)]
    for place in np.ndindex(*counts):
        yield tuple(
            slice(i * length, min((i + 1) * length, n))
            for i, length, n in zip(place, lengths, shape, strict=True)
        )


def lazy_variable(dims: tuple[str, ...], draws: StoredDraws) -> xr.Variable:
    """A variable of xarray that reads, of what is selected from it, what its values take."""
    import xarray as xr
    from xarray.backends import BackendArray
    from xarray.core import indexing

    class Backend(BackendArray):
        shape, dtype = draws.shape, draws.dtype

        def __getitem__(self, key: Any) -> Any:
            support = indexing.IndexingSupport.OUTER
            return indexing.explicit_indexing_adapter(key, self.shape, support, draws.__getitem__)

    return xr.Variable(dims, indexing.LazilyIndexedArray(Backend()))
