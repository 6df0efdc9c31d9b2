"""Names and labels of dimensions: from plates, from the user and from the data's labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bayes.data import Data
from bayes.errors import ModelError, SettingsError, ShapeError
from bayes.structure import Site

__all__ = ["data_dims", "fitting_dims", "site_coords", "site_dims"]


RESERVED = ("chain", "draw")
"""Dimensions of all draws, which no plate can be called after."""


def site_dims(
    sites: Mapping[str, Site], dims: Mapping[str, Sequence[str]] | None
) -> dict[str, tuple[str, ...]]:
    """Dimension names of every site.

    Parameters
    ----------
    sites : mapping
        Sites by name.
    dims : mapping, optional
        The user's names by site: for all dimensions, or for those that no plate names.

    Returns
    -------
    dict
        One name a dimension; ``<site>_dim_<i>`` where nothing names it.

    Raises
    ------
    ModelError
        Where a plate or a dimension is called as one of all draws is.
    """
    dims = dict(dims or {})
    _require_free(sites, dims)
    unknown = [name for name in dims if name not in sites]
    if unknown:
        raise SettingsError(
            f"dims name '{unknown[0]}', which is not a site; the sites are {', '.join(sites)}"
        )
    named = {name: _one(site, dims.get(name)) for name, site in sites.items()}
    plates = {p[0]: p[2] for site in sites.values() for p in site.plates}
    for name, site in sites.items():
        # A deterministic site carries no plates: a plate of just its size names its dimension.
        if site.kind == "deterministic" and name not in dims:
            named[name] = tuple(
                _unique_plate(size, plates) or label
                for size, label in zip(site.shape, named[name], strict=True)
            )
            if len(set(named[name])) < len(named[name]):
                named[name] = _one(site, None)
    return named


def _require_free(sites: Mapping[str, Site], dims: Mapping[str, Sequence[str]]) -> None:
    """Refuse the names of dimensions that all draws have."""
    plates = {p[0]: site.name for site in sites.values() for p in site.plates}
    given = {
        label: name
        for name, labels in dims.items()
        for label in ((labels,) if isinstance(labels, str) else labels)
    }
    for kind, found in (("plate", plates), ("dimension", given)):
        for label in RESERVED:
            if label in found:
                raise ModelError(
                    f"{kind} '{label}' of site '{found[label]}' is called like the dimension "
                    f"'{label}' that all draws have; rename the {kind}"
                )


def _unique_plate(size: int, plates: Mapping[str, int]) -> str | None:
    fitting = [plate for plate, n in plates.items() if n == size and n > 1]
    return fitting[0] if len(fitting) == 1 else None


def _one(site: Site, given: Sequence[str] | None) -> tuple[str, ...]:
    ndim = len(site.shape)
    batch = ndim - site.event_ndim
    names: list[str | None] = [None] * ndim
    for plate, dim, size in site.plates:
        place = batch + dim
        if 0 <= place < ndim and site.shape[place] == size:
            names[place] = plate
    if given is not None:
        given = (given,) if isinstance(given, str) else tuple(given)
        open_places = [i for i, n in enumerate(names) if n is None]
        if len(given) == ndim:
            names = list(given)
        elif len(given) == len(open_places):
            for place, label in zip(open_places, given, strict=True):
                names[place] = label
        else:
            raise ShapeError(
                f"dims of '{site.name}' name {len(given)} dimensions, but it has shape "
                f"{site.shape}"
                + (f", of which plates name {ndim - len(open_places)}" if site.plates else "")
            )
    return tuple(n if n is not None else f"{site.name}_dim_{i}" for i, n in enumerate(names))


def _sizes(
    sites: Mapping[str, Site], named: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[int, str]]:
    sizes: dict[str, tuple[int, str]] = {}
    for name, labels in named.items():
        for dim, size in zip(labels, sites[name].shape, strict=True):
            if dim in sizes and sizes[dim][0] != size:
                raise ShapeError(
                    f"dimension '{dim}' has size {sizes[dim][0]} at site '{sizes[dim][1]}' and "
                    f"{size} at site '{name}'"
                )
            sizes.setdefault(dim, (size, name))
    return sizes


def site_coords(
    sites: Mapping[str, Site],
    named: Mapping[str, tuple[str, ...]],
    data: Data,
    coords: Mapping[str, Any] | None,
) -> dict[str, np.ndarray]:
    """Labels of every named dimension.

    The user's coords come first, then those of a dataset, then levels of a categorical column,
    then the labels of a frame's rows; a dimension without labels counts from 0.

    Raises
    ------
    ShapeError
        Where the labels do not have the dimension's length.
    """
    sizes = _sizes(sites, named)
    labels: dict[str, np.ndarray] = {}
    for dim, values in dict(coords or {}).items():
        array = np.asarray(values)
        if dim in sizes and len(array) != sizes[dim][0]:
            raise ShapeError(
                f"coords of '{dim}' have {len(array)} labels, but the dimension has size "
                f"{sizes[dim][0]} (site '{sizes[dim][1]}')"
            )
        labels[dim] = array
    observed = {d for n, ds in named.items() if sites[n].kind == "observed" for d in ds}
    for dim, (size, _) in sizes.items():
        if dim in labels:
            continue
        found = _labels_from_data(dim, size, data, is_row=dim in observed)
        labels[dim] = np.arange(size) if found is None else found
    return labels


def _labels_from_data(dim: str, size: int, data: Data, *, is_row: bool) -> np.ndarray | None:
    if dim in data.coords and len(data.coords[dim]) == size:
        return data.coords[dim]
    levels = data.levels
    if dim in levels and len(levels[dim]) == size:
        return levels[dim]
    if not is_row:
        fitting = [values for values in levels.values() if len(values) == size]
        return fitting[0] if len(fitting) == 1 else None
    rows = [c.labels for c in data.columns.values() if c.labels is not None]
    if rows and len(rows[0]) == size and rows[0].dtype != object:
        return rows[0]
    if rows and len(rows[0]) == size and all(isinstance(v, str) for v in rows[0]):
        return rows[0].astype(str)
    return None


def fitting_dims(
    name: str,
    shape: tuple[int, ...],
    dims: Mapping[str, tuple[str, ...]],
    coords: Mapping[str, np.ndarray],
) -> tuple[str, ...]:
    """Dimension names of a site's values: the model's, where they fit the shape."""
    # One number an event has fewer dimensions: the event's own come last.
    named = dims.get(name, ())[: len(shape)]
    sizes = zip(named, shape, strict=False)
    if len(named) == len(shape) and all(len(coords.get(d, range(n))) == n for d, n in sizes):
        return named
    return tuple(f"{name}_dim_{i}" for i in range(len(shape)))


def data_dims(
    name: str, value: np.ndarray, data: Data, sizes: Mapping[str, int]
) -> tuple[str, ...]:
    """Dimension names of a data argument: its own, else those of the only plate of that size."""
    column = data.columns[name]
    own = column.dims
    result = []
    for place, size in enumerate(value.shape):
        fitting = [d for d, n in sizes.items() if n == size and size > 1]
        if own is not None:
            label = own[place]
        elif len(fitting) == 1:
            label = fitting[0]
        else:
            label = f"{name}_dim_{place}"
        result.append(f"{name}_dim_{place}" if label in result else label)
    return tuple(result)
