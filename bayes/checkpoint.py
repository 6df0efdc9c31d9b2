"""Checkpoints of a run: after every block, readable at any moment, resumed to the bit."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import jax
import numpy as np

from bayes.errors import FileError
from bayes.files import read_arrays, read_manifest, write_arrays, write_manifest
from bayes.fingerprint import model_difference
from bayes.method import Chunk

__all__ = ["Checkpoint"]

_KIND, _SCHEMA = "checkpoint", 1


class Checkpoint:
    """A folder that holds a run's state and the chunks so far.

    Every block adds its chunk and a new state under new names; then the manifest is replaced in
    one step. Whatever the moment a process dies, the manifest names files that are whole.

    Parameters
    ----------
    path : str or path
        The folder; made where absent.
    identity : dict
        What the run is: model, data, method, settings, seed, versions. Another run's checkpoint
        is refused.
    """

    def __init__(self, path: str | os.PathLike, identity: dict[str, Any]) -> None:
        self.folder = pathlib.Path(path)
        self.identity = identity
        self.chunks: list[dict[str, str]] = []
        self.blocks = 0

    def load(self, template: Any) -> tuple[Any, list[Chunk]] | None:
        """The state and chunks of an earlier run, or None where there is none.

        Parameters
        ----------
        template : pytree
            A state of the method, for its structure.

        Raises
        ------
        FileError
            Where the folder is damaged, foreign, or of another run.
        """
        if not self.folder.exists() or not any(self.folder.iterdir()):
            return None
        if not (self.folder / "manifest.json").exists() and all(
            f.suffix in (".npz", ".part") for f in self.folder.iterdir()
        ):
            return None  # died before the first manifest
        manifest = read_manifest(self.folder, _KIND, _SCHEMA)
        self._compare(manifest["identity"])
        leaves, structure = jax.tree.flatten(template)
        if str(structure) != manifest["structure"] or len(leaves) != manifest["leaves"]:
            raise FileError(f"{self.folder} holds a state of another structure")
        stored = read_arrays(self.folder / manifest["state"]["file"], manifest["state"]["sha256"])
        state = jax.tree.unflatten(structure, [stored[f"leaf{i}"] for i in range(len(leaves))])
        self.chunks, self.blocks = manifest["chunks"], manifest["blocks"]
        chunks: list[Chunk] = [
            read_arrays(self.folder / c["file"], c["sha256"]) for c in self.chunks
        ]
        self._sweep(manifest["state"]["file"])
        return state, chunks

    def save(self, state: Any, chunk: Chunk | None) -> None:
        """Add a block."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.blocks += 1
        if chunk is not None:
            name = f"chunk{self.blocks:07d}.npz"
            arrays = {k: np.asarray(v) for k, v in chunk.items()}
            self.chunks.append({"file": name, "sha256": write_arrays(self.folder / name, arrays)})
        leaves, structure = jax.tree.flatten(state)
        name = f"state{self.blocks:07d}.npz"
        arrays = {f"leaf{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
        manifest = {
            "kind": _KIND,
            "schema": _SCHEMA,
            "identity": self.identity,
            "structure": str(structure),
            "leaves": len(leaves),
            "blocks": self.blocks,
            "chunks": self.chunks,
            "state": {"file": name, "sha256": write_arrays(self.folder / name, arrays)},
        }
        write_manifest(self.folder, manifest)
        self._sweep(name)

    def _sweep(self, state: str) -> None:
        """Remove what the manifest does not name: older states and leftovers of a crash."""
        named = {state, "manifest.json", *(c["file"] for c in self.chunks)}
        for file in self.folder.iterdir():
            ours = file.name.startswith(("state", "chunk", "manifest"))
            if ours and file.name not in named:
                file.unlink(missing_ok=True)

    def _compare(self, saved: dict[str, Any]) -> None:
        where = f"{self.folder} is the checkpoint of another run: "
        difference = model_difference(saved["model"], self.identity["model"])
        if difference is not None:
            raise FileError(f"{where}{difference}")
        for key, word in (
            ("data", "the data differ"),
            ("method", "the method differs"),
            ("settings", "the method's settings differ"),
            ("seed", "the seed differs"),
            ("versions", "package versions differ, so the draws would"),
        ):
            if saved[key] != self.identity[key]:
                detail = "" if key == "data" else f" ({saved[key]} then, {self.identity[key]} now)"
                raise FileError(f"{where}{word}{detail}")
