"""Means and standard deviations of sites and of linear functionals: exact where they are known."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from bayes.compilation import computing
from bayes.errors import SettingsError, ShapeError

if TYPE_CHECKING:
    import xarray as xr

    from bayes.posterior import Posterior

__all__ = ["linear", "moments"]

_BYTES = 2**27
_PAIRED = "ComplexKroneckerNormal"
_KRONECKER = ("KroneckerNormal", _PAIRED)


def moments(posterior: Posterior, site: str) -> xr.Dataset:
    """Mean and standard deviation of a site; see :meth:`bayes.Posterior.moments`."""
    import xarray as xr

    draws = posterior.draws(site)
    if "moments" in posterior.data.children and site in posterior.data["moments"].data_vars:
        group = posterior.data["moments"].to_dataset()
        known, exact = group[site], bool(group.attrs.get("exact", True))
        parts = {name: known.sel(moment=name, drop=True) for name in ("mean", "sd")}
        return xr.Dataset(parts, attrs={"exact": exact})
    axes = ("chain", "draw")
    return xr.Dataset({"mean": draws.mean(axes), "sd": draws.std(axes)}, attrs={"exact": False})


def linear(posterior: Posterior, maps: tuple[Any, ...], site: str | None) -> xr.Dataset:
    """Posterior of a Kronecker functional; see :meth:`bayes.Posterior.linear`."""
    import xarray as xr

    if not maps:
        raise SettingsError("linear() takes a matrix an axis of the site")
    known = posterior.structure if posterior.has_model else None
    if known is not None and site in (None, known.site):
        mean, sd = known.linear(*maps)
        lead = posterior.draws(known.site).dims[2 : 2 + mean.ndim - len(maps)]
        return _dataset(known.site, mean, sd, lead, exact=not posterior.method.info.get("masked"))
    name = _site_of(posterior, len(maps)) if site is None else site
    draws = posterior.draws(name).transpose("chain", "draw", ...)
    pairs = _is_paired(posterior, name)
    axes = _axes(posterior, name)
    if axes not in (None, len(maps)):
        raise ShapeError(f"'{name}' has {axes} axes, got {len(maps)} maps")
    lead = draws.dims[2 : draws.ndim - len(maps) - pairs]
    if len(lead) + 2 + len(maps) + pairs > draws.ndim:
        raise ShapeError(f"'{name}' has {draws.ndim - 2 - pairs} axes, got {len(maps)} maps")
    mean, sd = _from_draws(np.asarray(draws.values), maps, name, pairs)
    assert isinstance(draws, xr.DataArray)
    return _dataset(name, mean, sd, lead, exact=False)


def _from_draws(
    values: np.ndarray, maps: tuple[Any, ...], site: str, pairs: bool
) -> tuple[np.ndarray, np.ndarray]:
    from bayes.inference.kronecker.posterior import checked_maps
    from bayes.inference.kronecker.tensors import along

    values = values.reshape(-1, *values.shape[2:])
    values = values[..., 0] + 1j * values[..., 1] if pairs else values
    matrices = checked_maps(maps, values.shape[values.ndim - len(maps) :], site)
    lead, modes = values.shape[: values.ndim - len(maps)], values.shape[values.ndim - len(maps) :]
    flat = values.reshape(math.prod(lead), *modes)
    size = math.prod(max(m.shape) for m in matrices) * 16
    step = max(1, _BYTES // size)
    parts = [along(flat[i : i + step], matrices) for i in range(0, len(flat), step)]
    mapped = np.concatenate(parts).reshape(*lead, *(len(m) for m in matrices))
    return mapped.mean(axis=0), mapped.std(axis=0)


def _dataset(
    site: str, mean: np.ndarray, sd: np.ndarray, lead: tuple[Any, ...], *, exact: bool
) -> xr.Dataset:
    import xarray as xr

    dims = (*lead, *(f"{site}_map_{i}" for i in range(mean.ndim - len(lead))))
    variables = {"mean": (dims, mean), "sd": (dims[mean.ndim - sd.ndim :], sd)}
    return xr.Dataset(variables, attrs={"exact": exact})


def _axes(posterior: Posterior, site: str) -> int | None:
    """Axes of Kronecker coefficients without those of snapshots; None of other sites."""
    from bayes.structure import trace_program
    from bayes.supports import base_distribution

    if not posterior.has_model or site not in posterior.problem.sites:
        return None
    problem = posterior.problem
    if problem.sites[site].distribution not in _KRONECKER:
        return None
    with computing():
        fn = trace_program(problem.model.fn, problem.data, 0)[site]["fn"]
    return base_distribution(fn).event_dim - _is_paired(posterior, site)


def _is_paired(posterior: Posterior, site: str) -> bool:
    if not posterior.has_model or site not in posterior.problem.sites:
        return False
    return posterior.problem.sites[site].distribution == _PAIRED


def _site_of(posterior: Posterior, axes: int) -> str:
    """The coefficients of the model, or the only site with so many axes."""
    sites = posterior.data["posterior"].data_vars
    named = []
    if posterior.has_model:
        sites_of = posterior.problem.sites
        named = [n for n, s in sites_of.items() if s.distribution in _KRONECKER]
    fitting = named or [str(n) for n, v in sites.items() if v.ndim - 2 == axes]
    if len(fitting) != 1:
        raise SettingsError(
            f"say which site with site=: {', '.join(fitting) or ', '.join(map(str, sites))}"
        )
    return fitting[0]
