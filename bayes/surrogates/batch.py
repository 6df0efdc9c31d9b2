"""Posteriors of many data sets in one call."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bayes.design import sites_observed
from bayes.errors import DataError, ShapeError
from bayes.precision import double_precision
from bayes.problem import Problem
from bayes.surrogates.ground import Ground
from bayes.surrogates.layout import Inputs, leaves_of
from bayes.surrogates.mixtures import Mixture, log_prob, moments, sample
from bayes.threefry import seed_key

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["BatchPosterior", "batch_inputs"]


@dataclasses.dataclass(frozen=True, eq=False)
class BatchPosterior:
    """Mixtures that a surrogate gives for many data sets; not corrected, and not judged.

    Parameters
    ----------
    mixture : Mixture
        On the flat unconstrained space, with a leading dimension of data sets.
    reference : Problem
        The program.
    arrays : dict
        Its array arguments, each with a leading dimension of data sets.
    """

    mixture: Mixture
    reference: Problem = dataclasses.field(repr=False)
    arrays: dict[str, Any] = dataclasses.field(repr=False)

    @property
    def mean(self) -> Float[np.ndarray, "data_set d"]:
        """Means of the flat unconstrained positions."""
        return moments(self.mixture)[0]

    @property
    def sd(self) -> Float[np.ndarray, "data_set d"]:
        """Standard deviations of the flat unconstrained positions."""
        variances = np.diagonal(moments(self.mixture)[1], axis1=-2, axis2=-1)
        return np.sqrt(variances)

    def log_prob(
        self, positions: Float[np.ndarray, "data_set d"]
    ) -> Float[np.ndarray, " data_set"]:
        """Log density at a flat unconstrained position of each data set."""
        with double_precision(), jax.numpy_rank_promotion("allow"):
            return np.asarray(log_prob(self.mixture, positions))

    def draws(self, count: int = 1000, seed: int = 0) -> xr.Dataset:
        """Draws of latent and deterministic sites.

        Parameters
        ----------
        count : int
            Draws of each data set.
        seed : int
            Seed.

        Returns
        -------
        xarray.Dataset
            By site, of shape (data_set, draw, *site shape).
        """
        import xarray as xr

        problem = self.reference
        with double_precision(), jax.numpy_rank_promotion("allow"):
            found = _sample(Mixture(*map(jnp.asarray, self.mixture)), seed_key(seed), count)
            positions = jnp.swapaxes(found, 0, 1)
            run = problem.program.once("constrain many data sets", lambda: _constrain(problem))
            values = run(positions, self.arrays)
        dims = {n: [f"{n}_dim_{i}" for i in range(np.ndim(v) - 2)] for n, v in values.items()}
        dims |= {
            n: list(problem.dims[n]) for n in values if len(problem.dims.get(n, ())) == len(dims[n])
        }
        return xr.Dataset(
            {n: (["data_set", "draw", *dims[n]], np.asarray(v)) for n, v in values.items()}
        )


_sample = jax.jit(sample, static_argnums=2)


def _constrain(problem: Problem) -> Any:
    each = jax.vmap(problem.program.constrain, in_axes=(0, None))
    return jax.jit(jax.vmap(each))


def batch_inputs(ground: Ground, data: Mapping[str, Any]) -> tuple[Inputs, dict[str, Any]]:
    """What a network is given of many data sets, and the arguments of the program.

    Parameters
    ----------
    ground : Ground
        The program.
    data : mapping
        Arguments by name, each array with a leading dimension of data sets. Of a program that does
        not run without what it observes, the values of its observed sites, by the sites' names.

    Raises
    ------
    DataError
        What is missing, unknown or not finite.
    ShapeError
        Arrays that do not fit each other or the program.
    """
    known, names = ground.reference.arrays, _names(ground)
    taken = list(dict.fromkeys(names.get(n, n) for n in known))
    unknown = [n for n in data if n not in taken]
    if unknown:
        what = "an argument or an observed site" if names else "an argument"
        raise DataError(f"'{unknown[0]}' is not {what} of the program ({', '.join(taken)})")
    given = _given(ground, names, data)
    needed = {
        *ground.observed.values(),
        *(c.split(".")[0] for s in ground.layout.sources for c in s.covariates),
    }
    needed |= {n.split(".")[0] for n in ground.layout.extra}
    absent = sorted(needed - set(given))
    if absent:
        site = names.get(absent[0])
        what = f"'{absent[0]}'" if site is None else f"what is observed at site '{site}'"
        how = "" if site is None else f": give it as '{site}'"
        raise DataError(f"{what} differs between data sets and is missing{how}")
    leaves = {n: np.asarray(v) for n, v in leaves_of(given).items()}
    count = next((len(v) for v in leaves.values() if v.ndim), 1)
    own = leaves_of(known)
    for name, value in leaves.items():
        said = names.get(name, name)
        if value.ndim == 0 or value.shape[0] != count:
            raise ShapeError(f"'{said}' has shape {value.shape}; expected {count} data sets first")
        if not np.isfinite(value).all():
            bad = np.flatnonzero(~np.isfinite(value.reshape(count, -1)).all(axis=1))
            raise DataError(f"'{said}' is not finite in data set {bad[0]}")
        if value.ndim - 1 != np.ndim(own[name]):
            raise ShapeError(
                f"'{said}' has shape {value.shape}; expected (data set, *{np.shape(own[name])})"
            )
    _require_shapes(ground, names, leaves)
    observed = {site: leaves[argument] for site, argument in ground.observed.items()}
    inputs = ground.layout.inputs(observed, leaves, np, (count,))
    # Arguments that only bring a size are to bring that of the data.
    others = ground.with_rows(known, tuple(table.shape[-2] for table in inputs.tables))
    arrays = {
        n: given[n]
        if n in given
        else jax.tree.map(lambda v: np.broadcast_to(v, (count, *np.shape(v))), others[n])
        for n in known
    }
    return inputs._replace(arrays=arrays), arrays


def _names(ground: Ground) -> dict[str, str]:
    """By argument that only our own rewriting of a program has, the observed site it stands for."""
    sites = sites_observed(ground.reference.model) or ()
    return {ground.observed[site]: site for site in sites}


def _given(ground: Ground, names: Mapping[str, str], data: Mapping[str, Any]) -> dict[str, Any]:
    """The data by argument."""
    given = {
        n: np.asarray(v) if not isinstance(v, (list, tuple, dict)) else v for n, v in data.items()
    }
    for argument, site in names.items():
        if site in given:
            # An argument of that name is the same where it has the same shape.
            same = ground.reference.arrays.get(site)
            shape = ground.reference.sites[site].shape
            keep = isinstance(same, (np.ndarray, jax.Array)) and same.shape == shape
            given[argument] = given[site] if keep else given.pop(site)
    return given


def _require_shapes(
    ground: Ground, names: Mapping[str, str], leaves: Mapping[str, np.ndarray]
) -> None:
    """Refuse arrays of other shapes than in training, but for rows that may vary."""
    own = leaves_of(ground.reference.arrays)
    for source in ground.layout.sources:
        argument = ground.observed[source.site]
        rows = leaves[argument].shape[1:2]
        for name in (argument, *source.covariates):
            given, wanted = leaves[name].shape[1:], np.shape(own[name])
            if source.resizable:
                wanted = (*rows, *wanted[1:])
            if given != wanted:
                said, sizes = names.get(name, name), ", ".join(map(str, wanted))
                raise ShapeError(
                    f"'{said}' has shape {leaves[name].shape}; expected (data set, {sizes})"
                )
