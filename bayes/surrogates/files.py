"""Trained surrogates as files: what they have learned, and what tells their program from others."""

from __future__ import annotations

import dataclasses
import importlib
import os
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from bayes.compilation import computing
from bayes.design import observing, sites_observed
from bayes.errors import BayesError, DataWarning, FileError, SettingsError
from bayes.fingerprint import model_difference, model_fingerprint, versions
from bayes.model import as_model
from bayes.problem import Problem
from bayes.stored_data import pack_data, plain_array, unpack_data
from bayes.surrogates.global_results import GlobalChecks
from bayes.surrogates.ground import Ground
from bayes.surrogates.layout import Layout, leaves_of
from bayes.surrogates.mixtures import Mixture
from bayes.surrogates.surrogate import Surrogate
from bayes.surrogates.tensor_files import TensorFile, write_tensors

__all__ = ["SETTINGS", "load_surrogate", "require_replaceable", "save_surrogate"]

SETTINGS = ("draws", "route")
"""Settings that a trained surrogate can be given anew."""
_KIND, _SCHEMA = "surrogate", 1
_HOMES = {
    "distribution_transformer": ("bayes.surrogates.trained_transformer", "TrainedTransformer"),
    "simulation_bank": ("bayes.surrogates.trained_bank", "TrainedBank"),
}
_GROUND, _LEARNED, _DATA, _COORDS = "ground.", "learned.", "data.", "coords."


# ----------------------------------------------------------------------- writing


def save_surrogate(surrogate: Surrogate, path: str | os.PathLike) -> None:
    """Write a trained surrogate as one safetensors file, whole or not at all.

    Its program is not written, only what tells it from others: shapes of its sites, and its log
    density at fixed points, for data drawn from it.

    Parameters
    ----------
    surrogate : Surrogate
        A trained one, under its program's own prior.
    path : path
        A file, by custom ``*.safetensors``. An earlier surrogate there is replaced.

    Raises
    ------
    SettingsError
        Where it has a prior from :meth:`bayes.Surrogate.with_prior`, or its model a
        reparametrisation that is code.
    FileError
        Where something else is at the path, or it cannot be written.
    """
    if surrogate.prior is not None:
        raise SettingsError(
            "a surrogate is saved with its program's own prior: save "
            "surrogate.with_prior(None), and call with_prior again when it is loaded"
        )
    ground = getattr(surrogate, "ground", None)
    if surrogate.name not in _HOMES or not isinstance(ground, Ground):
        raise SettingsError(
            f"{type(surrogate).__name__} cannot be saved; surrogates that can are "
            f"{', '.join(_HOMES)}"
        )
    target = pathlib.Path(path)
    target = target.resolve() if target.is_symlink() else target
    require_replaceable(target)
    learned, values = getattr(surrogate, "parts")()  # noqa: B009
    skeleton, data = pack_data(ground.reference.data)
    arrays = {f"{_LEARNED}{n}": v for n, v in learned.items()}
    arrays |= {f"{_DATA}{n}": v for n, v in data.items()}
    arrays |= {f"{_COORDS}{n}": plain_array(v) for n, v in ground.reference.model.coords.items()}
    arrays |= {f"{_GROUND}{n}": v for n, v in _ground_arrays(ground).items()}
    card = {
        "kind": _KIND,
        "schema": _SCHEMA,
        "surrogate": surrogate.name,
        "settings": {name: getattr(surrogate, name) for name in SETTINGS},
        "learned": values,
        "model": _described(ground.reference),
        "layout": ground.layout.to_dict(),
        "observed": ground.observed,
        "constants": sorted(ground.constants),
        "data": skeleton,
        "versions": versions(),
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(target, arrays, card)


def require_replaceable(path: str | os.PathLike) -> None:
    """Refuse to save a surrogate over what is not one."""
    target = pathlib.Path(path)
    if not target.exists():
        return
    try:
        _opened(target)
    except FileError as error:
        raise FileError(f"{target} is not overwritten: {error}") from error


def _described(reference: Problem) -> dict[str, Any]:
    """What tells the program from others, and how it was bound."""
    model, reparam = reference.model, reference.model.reparam
    if not (reparam is None or reparam == "auto" or reparam == {}):
        raise SettingsError(
            f"the reparametrisation of {model.name} is code, which no file of a surrogate holds: "
            "train it with reparam='auto', reparam={}, or with a program that is written so"
        )
    with computing():
        fingerprint = model_fingerprint(reference)
    return {
        "name": model.name,
        "dims": {k: list(v) for k, v in model.dims.items()},
        "reparam": reparam,
        "observing": sites_observed(model),
        "fingerprint": fingerprint,
    }


def _ground_arrays(ground: Ground) -> dict[str, np.ndarray]:
    own = {f"own_prior.{n}": np.asarray(v) for n, v in ground.own_prior._asdict().items()}
    return {"location": ground.location, "scale": ground.scale, **own}


# ----------------------------------------------------------------------- reading


def load_surrogate(path: str | os.PathLike, model: Any) -> Surrogate:
    """Read a trained surrogate.

    Parameters
    ----------
    path : path
        Where it was saved.
    model : callable or Model
        The program that it was trained for.

    Returns
    -------
    Surrogate
        A trained method for :func:`bayes.fit`; of the same data it gives the same draws to the bit.

    Raises
    ------
    SettingsError
        Where no model is given.
    FileError
        Where the file is damaged, foreign, of a newer schema or of another program.
    """
    file = _opened(pathlib.Path(path))
    if model is None:
        raise SettingsError(
            f"{path} is a surrogate, which needs the program that it was trained for: "
            "bayes.load(path, model=...)"
        )
    arrays, card = file.read(), file.card
    try:
        _require_finite(arrays)
        problem = _bound(file.path, card, arrays, model)
        ground = _ground(card, arrays, problem)
        module, name = _HOMES[card["surrogate"]]
        cls: Any = getattr(importlib.import_module(module), name)
        found = cls.from_parts(_under(_LEARNED, arrays), card["learned"], ground)
        if found.checks is not None:
            GlobalChecks.from_dict(found.checks)
        return found.replace(**{name: card["settings"][name] for name in SETTINGS})
    except _OtherProgram as error:
        raise FileError(str(error)) from error
    except Exception as error:  # the checksum agrees: written by another version, or by hand
        kind = "" if isinstance(error, BayesError) else f"{type(error).__name__}: "
        raise FileError(
            f"{path} cannot be read, though its checksum agrees: {kind}{error}"
        ) from error


class _OtherProgram(Exception):
    """The program given is not that of the file."""


def _opened(path: pathlib.Path) -> TensorFile:
    """A file, once it says that it is a surrogate that can be read."""
    file = TensorFile.open(path)
    card = file.card
    if card.get("kind") != _KIND:
        raise FileError(f"{path} is not a surrogate of bayes")
    schema = card.get("schema")
    if isinstance(schema, bool) or not isinstance(schema, int) or schema < 1:
        raise FileError(f"{path} is damaged: it has no schema version")
    if schema > _SCHEMA:
        raise FileError(
            f"{path} has schema {schema}, newer than this version of bayes can read ({_SCHEMA}): "
            "update bayes"
        )
    if card.get("surrogate") not in _HOMES:
        raise FileError(
            f"{path} is a surrogate that this version of bayes does not know, "
            f"{card.get('surrogate')!r}: update bayes"
        )
    return file


def _under(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {n.removeprefix(prefix): v for n, v in arrays.items() if n.startswith(prefix)}


def _require_finite(arrays: Mapping[str, np.ndarray]) -> None:
    for name, value in arrays.items():
        if not name.startswith((_GROUND, _LEARNED)):
            continue  # data and labels may have gaps
        if value.dtype.kind not in "fiub" or not np.isfinite(value).all():
            raise FileError(f"array '{name}' has values that are no finite numbers")


def _bound(
    path: pathlib.Path, card: Mapping[str, Any], arrays: Mapping[str, np.ndarray], model: Any
) -> Problem:
    """Bind a program to the data of the file, and refuse one that it was not trained for."""
    saved, given = card["model"], as_model(model)
    data = unpack_data(card["data"], _under(_DATA, arrays))
    candidate = given.replace(
        dims=saved["dims"] | given.dims, coords=_under(_COORDS, arrays) | given.coords
    )
    candidate.reparam = saved["reparam"]
    if saved["observing"] is not None:
        candidate = observing(candidate, tuple(saved["observing"]))
    with computing(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # the data were drawn
        try:
            problem = candidate.bind(data)
            difference = model_difference(saved["fingerprint"], model_fingerprint(problem))
        except BayesError as error:
            difference = str(error)
    if difference is not None:
        raise _OtherProgram(
            f"{path} was trained for another program than the one given ({given.name}): "
            f"{difference}"
        )
    return problem


def _ground(card: Mapping[str, Any], arrays: Mapping[str, np.ndarray], problem: Problem) -> Ground:
    """The ground, once its parts fit each other and the program."""
    stored, d = _under(_GROUND, arrays), problem.size
    layout = Layout.from_dict(card["layout"])
    observed = {str(site): str(argument) for site, argument in card["observed"].items()}
    if sorted(source.site for source in layout.sources) != sorted(observed):
        raise FileError(f"it reads other sites than {', '.join(observed)}")
    leaves = leaves_of(problem.data.arrays)
    constants = {name: np.asarray(leaves[name]) for name in card["constants"]}
    own = Mixture(*(stored[f"own_prior.{name}"] for name in Mixture._fields))
    k = own.means.shape[0]
    shapes = [(k,), (k, d), (k, d), (k, d, d)]
    if [part.shape for part in own] != shapes or any(part.dtype != float for part in own):
        raise FileError(f"its prior has shapes {[part.shape for part in own]}, not {shapes}")
    location, scale = stored["location"], stored["scale"]
    if location.shape != (d,) or scale.shape != (d,) or not (scale > 0).all():
        raise FileError(f"its centre and scale are not those of {d} unknowns")
    ground = Ground(problem, observed, layout, constants, location, scale, own)
    with computing():
        inputs = ground.inputs(problem)
    given = [*(table.shape[-1] for table in inputs.tables), inputs.extra.shape[-1]]
    read = [*(source.columns for source in layout.sources), layout.extra_columns]
    for columns, width in zip(read, given, strict=True):
        sizes = {len(getattr(columns, f.name)) for f in dataclasses.fields(columns)}
        if sizes != {width}:
            raise FileError(f"{sizes} columns are read of {width} that there are")
    return ground
