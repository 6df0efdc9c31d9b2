"""Posteriors of many data sets in one call."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

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

    Raises
    ------
    DataError
        What is missing, unknown or not finite.
    ShapeError
        Arrays that do not fit each other or the program.
    """
    known = ground.reference.arrays
    unknown = [n for n in data if n not in known]
    if unknown:
        raise DataError(f"'{unknown[0]}' is not an argument of the program ({', '.join(known)})")
    given = {
        n: np.asarray(v) if not isinstance(v, (list, tuple, dict)) else v for n, v in data.items()
    }
    needed = {
        *ground.observed.values(),
        *(c.split(".")[0] for s in ground.layout.sources for c in s.covariates),
    }
    needed |= {n.split(".")[0] for n in ground.layout.extra}
    absent = sorted(needed - set(given))
    if absent:
        raise DataError(f"'{absent[0]}' differs between data sets and is missing")
    leaves = {n: np.asarray(v) for n, v in leaves_of(given).items()}
    count = next(iter(leaves.values())).shape[0]
    own = leaves_of(known)
    for name, value in leaves.items():
        if value.ndim == 0 or value.shape[0] != count:
            raise ShapeError(f"'{name}' has shape {value.shape}; expected {count} data sets first")
        if not np.isfinite(value).all():
            bad = np.flatnonzero(~np.isfinite(value.reshape(count, -1)).all(axis=1))
            raise DataError(f"'{name}' is not finite in data set {bad[0]}")
        if value.ndim - 1 != np.ndim(own[name]):
            raise ShapeError(
                f"'{name}' has shape {value.shape}; expected (data set, *{np.shape(own[name])})"
            )
    _require_shapes(ground, leaves)
    observed = {site: leaves[argument] for site, argument in ground.observed.items()}
    inputs = ground.layout.inputs(observed, leaves, np, (count,))
    arrays = {
        n: given[n]
        if n in given
        else jax.tree.map(lambda v: np.broadcast_to(v, (count, *np.shape(v))), known[n])
        for n in known
    }
    return inputs._replace(arrays=arrays), arrays


def _require_shapes(ground: Ground, leaves: Mapping[str, np.ndarray]) -> None:
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
                raise ShapeError(
                    f"'{name}' has shape {leaves[name].shape}; expected (data set, "
                    f"{', '.join(map(str, wanted))})"
                )
