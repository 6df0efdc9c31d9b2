"""Saved posteriors: zarr with checksums of every file, read only when all of them agree."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from bayes.compilation import computing
from bayes.data import Data
from bayes.diagnostics.checks import Diagnostics
from bayes.errors import BayesError, FileError
from bayes.files import checksum, read_arrays, read_manifest, write_arrays, write_manifest
from bayes.fingerprint import data_fingerprint, model_difference, model_fingerprint, versions
from bayes.model import as_model

if TYPE_CHECKING:
    from bayes.posterior import Posterior

__all__ = ["load", "save"]

_KIND, _SCHEMA = "posterior", 1
_DATA = "arguments.npz"


def save(posterior: Posterior, path: str | os.PathLike) -> None:
    """Write a posterior; see :meth:`bayes.Posterior.save`."""
    target = pathlib.Path(path)
    if target.exists() and not _replaceable(target):
        raise FileError(f"{target} exists and is not a saved posterior; it is not overwritten")
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        _write(posterior, folder)
        os.chmod(folder, 0o755)
        if target.exists():
            old = folder.with_name(folder.name + ".old")
            os.replace(target, old)
            os.replace(folder, target)
            shutil.rmtree(old)
        else:
            os.replace(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _replaceable(target: pathlib.Path) -> bool:
    return target.is_dir() and (
        not any(target.iterdir()) or (target / "manifest.json").exists()
    )


def _write(posterior: Posterior, folder: pathlib.Path) -> None:
    problem = posterior.problem
    posterior.data.to_zarr(folder / "groups", mode="w", consolidated=False, zarr_format=3)
    skeleton, leaves = _flatten(problem.data)
    write_arrays(folder / _DATA, leaves)
    with computing():
        fingerprint = model_fingerprint(problem)
    manifest = {
        "kind": _KIND,
        "schema": _SCHEMA,
        "model": {"name": problem.model.name, **fingerprint},
        "data": data_fingerprint(problem.data.arguments),
        "method": dataclasses.asdict(posterior.method),
        "diagnostics": posterior.diagnostics.to_dict(),
        "arguments": skeleton,
        "versions": versions(),
        "files": {
            str(f.relative_to(folder)): checksum(f.read_bytes()) for f in _files(folder)
        },
    }
    write_manifest(folder, manifest)


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(
        f
        for f in folder.rglob("*")
        if f.is_file() and f.name != ".DS_Store" and f != folder / "manifest.json"
    )


def _flatten(data: Data) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Arguments as a JSON skeleton whose leaves are names of arrays."""
    leaves: dict[str, np.ndarray] = {}

    def store(array: Any) -> dict[str, str]:
        name = f"leaf{len(leaves)}"
        leaves[name] = np.asarray(array)
        return {"array": name}

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {"dict": {k: walk(v) for k, v in value.items()}}
        if isinstance(value, (list, tuple)):
            return {type(value).__name__: [walk(v) for v in value]}
        return store(value)

    skeleton: dict[str, Any] = {}
    for name, value in data.arguments.items():
        if name not in data.columns:
            skeleton[name] = {"static": value}
            continue
        column = data.columns[name]
        entry = walk(value)
        for key in ("labels", "levels"):
            array = getattr(column, key)
            if array is not None:
                if array.dtype == object:
                    array = array.astype(str)
                entry[key] = store(array)
        if column.dims is not None:
            entry["dims"] = list(column.dims)
        skeleton[name] = entry
    skeleton = {"columns": skeleton, "coords": {k: store(v) for k, v in data.coords.items()}}
    return skeleton, leaves


def _unflatten(skeleton: dict[str, Any], leaves: dict[str, np.ndarray]) -> Data:
    from bayes.columns import Column

    def walk(node: Any) -> Any:
        if "array" in node:
            return leaves[node["array"]]
        if "dict" in node:
            return {k: walk(v) for k, v in node["dict"].items()}
        if "list" in node:
            return [walk(v) for v in node["list"]]
        return tuple(walk(v) for v in node["tuple"])

    arguments: dict[str, Any] = {}
    columns: dict[str, Column] = {}
    for name, node in skeleton["columns"].items():
        if "static" in node:
            arguments[name] = node["static"]
            continue
        arguments[name] = value = walk(node)
        found = {k: leaves[node[k]["array"]] for k in ("labels", "levels") if k in node}
        dims = tuple(node["dims"]) if "dims" in node else None
        floats = isinstance(value, np.ndarray) and value.dtype.kind == "f"
        missing = (
            np.unique(np.nonzero(np.atleast_1d(np.isnan(value)))[0])
            if floats
            else np.zeros(0, int)
        )
        columns[name] = Column(name, value, dims=dims, missing=missing, **found)
    coords = {k: leaves[v["array"]] for k, v in skeleton["coords"].items()}
    return Data(arguments, columns, coords)


def load(path: str | os.PathLike, model: Any = None) -> Posterior:
    """Read a posterior; see :func:`bayes.load`."""
    from bayes.posterior import MethodRecord, Posterior

    folder = pathlib.Path(path)
    manifest = read_manifest(folder, _KIND, _SCHEMA)
    _verify(folder, manifest["files"])
    try:
        tree = xr.open_datatree(folder / "groups", engine="zarr", chunks=None, consolidated=False).load()
    except Exception as error:  # the checksums agree, so this is a version zarr cannot read
        raise FileError(f"{folder} cannot be read: {error}") from error
    record = MethodRecord(**manifest["method"])
    verdict = Diagnostics.from_dict(manifest["diagnostics"])
    problem = None
    if model is not None:
        leaves = read_arrays(folder / _DATA, manifest["files"][_DATA])
        problem = _bind(folder, manifest, model, _unflatten(manifest["arguments"], leaves))
    return Posterior(tree, record, verdict, problem)


def _verify(folder: pathlib.Path, files: dict[str, str]) -> None:
    present = {str(f.relative_to(folder)): f for f in _files(folder)}
    missing = sorted(set(files) - set(present))
    if missing:
        raise FileError(f"{folder} is damaged: {missing[0]} is missing")
    foreign = sorted(set(present) - set(files))
    if foreign:
        raise FileError(f"{folder} has a file that is not its own: {foreign[0]}")
    for name, expected in files.items():
        if checksum(present[name].read_bytes()) != expected:
            raise FileError(f"{folder} is damaged: the checksum of {name} does not agree")


def _bind(folder: pathlib.Path, manifest: dict[str, Any], model: Any, data: Data) -> Any:
    saved = manifest["model"]
    candidates = [as_model(model)]
    if candidates[0].reparam is None:
        candidates.append(candidates[0].replace(reparam="auto"))
    difference = None
    with computing():
        for candidate in candidates:
            try:
                problem = candidate.bind(data)
                difference = model_difference(saved, model_fingerprint(problem))
            except BayesError as error:
                difference = str(error)
            if difference is None:
                return problem
    raise FileError(f"{folder} was saved with another model than the one given: {difference}")


