"""Saved posteriors: zarr with checksums of every file, read only when all of them agree."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import secrets
import shutil
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from bayes.compilation import computing
from bayes.diagnostics.checks import Diagnostics
from bayes.errors import BayesError, DataWarning, FileError
from bayes.files import (
    checksum,
    files_of,
    read_arrays,
    read_manifest,
    verify_files,
    write_arrays,
    write_manifest,
)
from bayes.fingerprint import data_fingerprint, model_difference, model_fingerprint, versions
from bayes.method import describe
from bayes.model import as_model
from bayes.prediction import _own_arguments
from bayes.problem import Problem
from bayes.stored_data import pack_data, plain_array, unpack_data
from bayes.stored_priors import under_stored_prior

if TYPE_CHECKING:
    import xarray as xr

    from bayes.posterior import Posterior

__all__ = ["Stored", "load", "require_replaceable", "save"]

_KIND, _SCHEMA = "posterior", 1
_DATA, _GROUPS = "arguments.npz", "groups"


@dataclasses.dataclass(frozen=True)
class Stored:
    """What a file says of a posterior's model and data: enough to write it again.

    Parameters
    ----------
    model : dict
        Name, fingerprint and labels of the model.
    data : str
        Fingerprint of the data.
    skeleton : dict
        Arguments of the program, with names of arrays for leaves.
    arrays : dict of array
        Those arrays.
    """

    model: dict[str, Any]
    data: str
    skeleton: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @classmethod
    def of(cls, problem: Problem, tree: xr.DataTree) -> Stored:
        """Describe a problem, with the log density at a few of its draws."""
        skeleton, arrays = pack_data(problem.data)
        model = problem.model
        described = {
            "name": model.name,
            "dims": {k: list(v) for k, v in model.dims.items()},
            "reparametrised": list(problem.reparametrised),
            "marginal": problem.marginal,
            "own_arguments": list(_own_arguments(model.fn)),
            **model_fingerprint(problem),
        }
        arrays |= {f"coords.{k}": plain_array(v) for k, v in model.coords.items()}
        positions = _some_draws(problem, tree)
        if positions is not None:
            arrays |= {"draws": positions} | _at_draws(problem, positions)
        return cls(described, data_fingerprint(problem.data.arguments), skeleton, arrays)

    @property
    def coords(self) -> dict[str, np.ndarray]:
        """Labels that the model gave to its dimensions."""
        return {k.removeprefix("coords."): v for k, v in self.arrays.items() if k[:7] == "coords."}


def save(posterior: Posterior, path: str | os.PathLike) -> None:
    """Write a posterior; see :meth:`bayes.Posterior.save`."""
    target = pathlib.Path(path)
    target = target.resolve() if target.is_symlink() else target
    require_replaceable(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    folder.mkdir()
    try:
        _write(posterior, folder)
        _put_in_place(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def require_replaceable(path: str | os.PathLike) -> None:
    """Refuse to save over what is not a posterior, or over files that are not its own."""
    target = pathlib.Path(path)
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    try:
        manifest = read_manifest(target, _KIND, _SCHEMA)
    except FileError as error:
        raise FileError(f"{target} is not overwritten: {error}") from error
    foreign = sorted(set(files_of(target)) - set(manifest["files"]))
    if foreign:
        raise FileError(
            f"{target} is not overwritten: it has a file that is not its own, {foreign[0]}"
        )


def _put_in_place(folder: pathlib.Path, target: pathlib.Path) -> None:
    """Swap a whole folder in; the old one stands aside until the new one is there."""
    if not target.exists():
        os.replace(folder, target)
        return
    old = folder.with_name(folder.name + ".old")
    os.replace(target, old)
    try:
        os.replace(folder, target)
    except BaseException:
        os.replace(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _write(posterior: Posterior, folder: pathlib.Path) -> None:
    tree, stored = posterior.data, posterior.stored
    if stored is None or posterior.has_model:
        with computing():
            stored = Stored.of(posterior.problem, tree)
    with warnings.catch_warnings():
        # Zarr warns that strings are not yet part of its third specification; it reads them back.
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", FutureWarning)
        try:
            tree.to_zarr(folder / _GROUPS, mode="w", consolidated=False, zarr_format=3)
        except (TypeError, ValueError) as error:
            raise FileError(f"the posterior has what zarr cannot hold: {error}") from error
    write_arrays(folder / _DATA, stored.arrays)
    method = dataclasses.asdict(posterior.method)
    manifest = {
        "kind": _KIND,
        "schema": _SCHEMA,
        "model": stored.model,
        "data": stored.data,
        "method": {k: describe(v) for k, v in method.items()},
        "diagnostics": posterior.diagnostics.to_dict(),
        "arguments": stored.skeleton,
        # A zarr group knows neither the order of what it holds nor the unit of its times.
        "layout": [
            [path, [[str(n), v.dtype.str] for n, v in tree[path].variables.items()]]
            for path in tree.groups
        ],
        "versions": versions(),
        "files": {name: checksum(f.read_bytes()) for name, f in files_of(folder).items()},
    }
    write_manifest(folder, manifest)


def load(path: str | os.PathLike, model: Any = None) -> Posterior:
    """Read a posterior; see :func:`bayes.load`."""
    from bayes.assembly import MethodRecord
    from bayes.posterior import Posterior

    folder = pathlib.Path(path)
    _require_whole(folder)
    manifest = read_manifest(folder, _KIND, _SCHEMA)
    verify_files(folder, manifest.get("files", {}))
    try:
        tree = _read_tree(folder / _GROUPS, manifest["layout"])
        arrays = read_arrays(folder / _DATA, manifest["files"][_DATA])
        stored = Stored(manifest["model"], manifest["data"], manifest["arguments"], arrays)
        record = MethodRecord(**manifest["method"])
        verdict = Diagnostics.from_dict(manifest["diagnostics"])
    except Exception as error:  # the checksums agree: written by another version, or by hand
        raise FileError(
            f"{folder} cannot be read, though its checksums agree: {type(error).__name__}: {error}"
        ) from error
    problem = None if model is None else _bind(folder, stored, model)
    posterior = Posterior(tree, record, verdict, problem)
    posterior.stored = stored
    return posterior


def _require_whole(folder: pathlib.Path) -> None:
    """Say where an earlier posterior is, when a save was cut short at its last step."""
    aside = sorted(folder.parent.glob(f".{folder.name}.*.old")) if not folder.exists() else []
    if aside:
        raise FileError(
            f"{folder} does not exist: a save was cut short; the posterior it was to replace is "
            f"{aside[-1]}"
        )


def _read_tree(folder: pathlib.Path, layout: list[list[Any]]) -> xr.DataTree:
    import xarray as xr

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", FutureWarning)
        opened = xr.open_datatree(folder, engine="zarr", chunks=None, consolidated=False).load()
    groups = {}
    for path, entries in layout:
        node = opened[path]
        assert isinstance(node, xr.DataTree)
        found = node.to_dataset(inherit=False).drop_encoding()
        variables = {name: found[name].variable for name, _ in entries}
        for name, dtype in entries:
            if dtype[1] in "mM":
                variables[name] = variables[name].astype(dtype)
        coords = {n: variables.pop(n) for n in list(variables) if n in found.coords}
        groups[path] = xr.Dataset(variables, coords, found.attrs)
    return xr.DataTree.from_dict(groups)


def _some_draws(problem: Problem, tree: xr.DataTree) -> np.ndarray | None:
    """Unconstrained positions of a few draws; None where a method has none of the sampled sites."""
    from bayes.groups import sampled_values

    if not problem.size:
        return None
    try:
        values = sampled_values(problem, tree)
    except BayesError:
        return None
    chains, draws = next(iter(values.values())).shape[:2]
    places = [(0, 0), (chains - 1, draws - 1), (0, draws // 2)]
    some = {n: np.stack([v[place] for place in places])[None] for n, v in values.items()}
    return problem.unconstrain(some)[0]


def _at_draws(problem: Problem, positions: np.ndarray) -> dict[str, np.ndarray]:
    """Log density and deterministic sites at draws, where every model has finite ones."""
    derived = {
        f"derived.{n}": v
        for n, v in problem.constrain(positions).items()
        if n in problem.sites and problem.sites[n].kind == "deterministic"
    }
    density = np.asarray([float(problem.log_density(p)) for p in positions])
    return {"density": density, **derived}


def _bind(folder: pathlib.Path, stored: Stored, model: Any) -> Problem:
    """Bind a model to the saved data, and refuse one that is not the saved one."""
    saved, given = stored.model, as_model(model)
    labels = {"dims": saved["dims"] | given.dims, "coords": stored.coords | given.coords}
    ways: list[dict[str, Any]] = [{}]
    if given.reparam is None and saved["reparametrised"]:
        ways.append({"reparam": "auto"})
    data, difference = unpack_data(stored.skeleton, stored.arrays), None
    marginal = saved.get("marginal", True)
    with computing(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # said when it was fitted
        for way in ways:
            candidate = given.replace(**labels, **way)
            try:
                candidate = under_stored_prior(candidate, data, saved, str(folder))
                problem = candidate.bind(data, need_observed=False, marginal=marginal)
                difference = _difference(stored, problem)
            except FileError:
                raise
            except BayesError as error:
                difference = str(error)
            if difference is None:
                return problem
    raise FileError(f"{folder} was saved with another model than the one given: {difference}")


def _difference(stored: Stored, problem: Problem) -> str | None:
    saved = stored.model
    difference = model_difference(saved, model_fingerprint(problem))
    if difference is not None:
        sites = ", ".join(saved["reparametrised"])
        hint = f"; the fit had reparametrised {sites}: give bayes.Model(..., reparam=...) as there"
        return difference + (hint if sites else "")
    if "draws" not in stored.arrays:
        return None
    for name, after in _at_draws(problem, stored.arrays["draws"]).items():
        before = stored.arrays.get(name)
        if before is None or not np.allclose(before, after, rtol=1e-6, atol=1e-6, equal_nan=True):
            what = "log density" if name == "density" else f"site '{name.removeprefix('derived.')}'"
            return f"the {what} has another value at a draw of the posterior"
    return None
