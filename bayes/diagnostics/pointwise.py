"""Log densities by site and observation: summed, and checked for leave-one-out."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from bayes.errors import DataError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["log_density", "masked_observations", "observations_of"]


def masked_observations(values: xr.DataArray) -> np.ndarray:
    """Which observations the program masks.

    Parameters
    ----------
    values : xarray.DataArray of dims (chain, draw, ...)
        Log likelihood of every observation of a site.

    Returns
    -------
    array of bool, of the observations' shape
    """
    # A mask makes the log likelihood exactly 0 at every draw, which no observation's is by chance.
    return np.asarray((values.transpose("chain", "draw", ...).values == 0.0).all(axis=(0, 1)))


def observations_of(values: xr.DataArray) -> xr.DataArray:
    """Finite log likelihoods by observation, without those that are masked.

    Parameters
    ----------
    values : xarray.DataArray of dims (chain, draw, ...)
        Log likelihood of every observation of a site.

    Returns
    -------
    xarray.DataArray of dims (chain, draw, ...)
        As it came, or with one dimension ``observation`` where some are masked.

    Raises
    ------
    DataError
        Where the log likelihood of an observation is not finite: names observation and site.
    """
    import xarray as xr

    array = values.transpose("chain", "draw", ...)
    bad = ~np.isfinite(array.values).all(axis=(0, 1))
    if np.any(bad):
        where = np.argwhere(np.atleast_1d(bad))[:3]
        shown = ", ".join(str(tuple(map(int, w)) if len(w) > 1 else int(w[0])) for w in where)
        raise DataError(
            f"loo: the log likelihood of '{values.name}' is not finite at observation {shown} "
            f"({int(bad.sum())} in all)"
        )
    masked = masked_observations(array)
    if not masked.any():
        return array
    flat = array.values.reshape(*array.shape[:2], -1)[..., ~masked.ravel()]
    coords = {"chain": array["chain"], "draw": array["draw"]}
    return xr.DataArray(flat, coords, dims=("chain", "draw", "observation"), name=values.name)


def log_density(group: xr.Dataset, names: Collection[str] | None = None) -> xr.DataArray:
    """Log density of sites together.

    Parameters
    ----------
    group : xarray.Dataset
        Log prior or log likelihood by site, of dims (chain, draw, ...).
    names : collection of str, optional
        The sites; all by default.

    Returns
    -------
    xarray.DataArray of dims (chain, draw)
        Zeros where there is no site.
    """
    import xarray as xr

    shape = (group.sizes["chain"], group.sizes["draw"])
    total = np.zeros(shape)
    for name, variable in group.data_vars.items():
        if names is None or name in names:
            values = variable.transpose("chain", "draw", ...).values
            total += values.reshape(*shape, -1).sum(axis=2)
    coords = {dim: group[dim] for dim in ("chain", "draw")}
    return xr.DataArray(total, coords, ("chain", "draw"))
