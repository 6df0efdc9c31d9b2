"""Posterior: draws in a DataTree, with the model, the method and the verdict."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from bayes.compilation import computing
from bayes.diagnostics.checks import Diagnostics, diagnose
from bayes.errors import DataError, ModelError
from bayes.groups import GROUPS, compute_group, constant_group, observed_group, site_dataset
from bayes.method import Draws
from bayes.predict import predict
from bayes.problem import Problem
from bayes.reparam import centred_sites
from bayes.structure import trace_program

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MethodRecord", "Posterior", "load"]


@dataclasses.dataclass(frozen=True)
class MethodRecord:
    """How a posterior was made.

    Parameters
    ----------
    name : str
        The method's name.
    settings : dict
        Its settings.
    reason : str
        Why this one.
    seed : int
        The run's seed.
    seconds : float
        Wall time of the fit.
    info : dict
        What the method found out on the way.
    """

    name: str
    settings: dict[str, Any]
    reason: str
    seed: int
    seconds: float
    info: dict[str, Any]

    def __str__(self) -> str:
        settings = ", ".join(f"{k}={v}" for k, v in self.settings.items())
        return f"{self.name}({settings}): {self.reason}"


class Posterior:
    """A posterior: draws, how they were made, and how far they can be trusted.

    Parameters
    ----------
    data : xarray.DataTree
        ArviZ groups: posterior, sample_stats, observed_data, constant_data, and those added by
        :meth:`extend`. Sites made by a reparametrisation are in the group ``auxiliary``.
    method : MethodRecord
        Name, settings, reason, seed and time.
    diagnostics : Diagnostics
        The verdict.
    problem : Problem or None
        The model bound to its data; None where a posterior was loaded without its model.
    """

    def __init__(
        self,
        data: xr.DataTree,
        method: MethodRecord,
        diagnostics: Diagnostics,
        problem: Problem | None,
    ) -> None:
        self.data = data
        self.method = method
        self.diagnostics = diagnostics
        self._problem = problem

    @classmethod
    def assemble(
        cls,
        problem: Problem,
        draws: Draws,
        method: MethodRecord,
        interrupted: str | None = None,
        non_finite: int = 0,
    ) -> Posterior:
        """Make a posterior of a method's draws."""
        own = {n: draws.values[n] for n in problem.parameters if n in draws.values}
        extra = {n: v for n, v in draws.values.items() if n not in own}
        groups = {
            "posterior": site_dataset(problem, own),
            "sample_stats": _stats(draws),
            "observed_data": observed_group(problem),
            "constant_data": constant_group(problem),
        }
        if extra:
            groups["auxiliary"] = site_dataset(problem, extra)
        tree = xr.DataTree.from_dict({k: v for k, v in groups.items() if v is not None})
        tree["posterior"].attrs.update(
            {"model": problem.model.name, "method": method.name, "seed": method.seed}
        )
        info = {
            **draws.info,
            "non_finite": non_finite,
            "frozen": problem.frozen,
            "notes": problem.notes + _restart_note(draws.info),
        }
        verdict = diagnose(tree, info, interrupted=interrupted)
        if not verdict.ok and not problem.reparametrised:
            centred = _centred(problem)
            verdict = diagnose(tree, info, interrupted=interrupted, centred=centred)
        return cls(tree, method, verdict, problem)

    # ------------------------------------------------------------------- reading

    @property
    def problem(self) -> Problem:
        """The model bound to its data.

        Raises
        ------
        ModelError
            Where the posterior was loaded without its model.
        """
        if self._problem is None:
            raise ModelError(
                "this posterior was loaded without its model: bayes.load(path, model=...) gives it"
            )
        return self._problem

    @property
    def model(self) -> Any:
        """The model."""
        return self.problem.model

    def draws(self, site: str) -> xr.DataArray:
        """Draws of a site.

        Parameters
        ----------
        site : str
            A latent or deterministic site.

        Returns
        -------
        xarray.DataArray of dims (chain, draw, ...)
        """
        for group in ("posterior", "auxiliary"):
            if group in self.data.children and site in self.data[group].data_vars:
                return self.data[group][site]
        raise KeyError(
            f"no site '{site}' in the posterior; it has "
            f"{', '.join(map(str, self.data['posterior'].data_vars))}"
        )

    def summary(self, **options: Any) -> pd.DataFrame:
        """Table of means, spreads, intervals, R-hat, effective sample sizes and Monte Carlo errors.

        Parameters
        ----------
        **options
            Go to ``arviz_stats.summary``: ``var_names``, ``round_to``, ``ci_prob``, ...

        Returns
        -------
        pandas.DataFrame
            One row an element.
        """
        import arviz_stats

        return arviz_stats.summary(self.data, **options)

    def to_unconstrained(self) -> xr.DataArray:
        """Draws as flat unconstrained vectors.

        Returns
        -------
        xarray.DataArray of dims (chain, draw, unconstrained)
        """
        problem = self.problem
        values = {s.name: self.draws(s.name).values for s in problem.program.latents}
        with computing():
            flat = problem.unconstrain(values)
        names = [
            f"{s.name}[{i}]" if s.stop - s.start > 1 or s.flat_shape else s.name
            for s in problem.program.latents
            for i in range(s.stop - s.start)
        ]
        coords = {"unconstrained": names}
        return xr.DataArray(flat, dims=("chain", "draw", "unconstrained"), coords=coords)

    # ----------------------------------------------------------------- computing

    def extend(
        self, *groups: str, seed: int = 0, draws: int = 1000, memory: float = 2**30
    ) -> Posterior:
        """Add groups that are computed on request.

        Parameters
        ----------
        *groups : {"log_likelihood", "log_prior", "prior", "prior_predictive", \
"posterior_predictive"}
            What to add; what is there already is computed anew.
        seed : int
            Seed of the groups that are drawn.
        draws : int
            Number of prior draws.
        memory : float
            Most bytes that a computation may take, its result included.

        Returns
        -------
        Posterior
            Itself.

        Raises
        ------
        MemoryError
            Where the result alone is larger than ``memory``: says how large it is.
        """
        for group in groups:
            if group not in GROUPS:
                raise DataError(f"no group '{group}'; there are {', '.join(GROUPS)}")
        with computing():
            for group in groups:
                for name, dataset in compute_group(
                    self.problem, self.data, group, seed, draws, memory
                ).items():
                    self.data[name] = xr.DataTree(dataset)
        return self

    def predict(
        self,
        new_data: Any = None,
        *,
        seed: int = 0,
        new_groups: str = "refuse",
        memory: float = 2**30,
    ) -> xr.DataTree:
        """Draw observations from the posterior predictive distribution.

        Parameters
        ----------
        new_data : dict, pandas.DataFrame, xarray.Dataset or polars.DataFrame, optional
            Covariates to predict at; by default those of the fit. The observed argument is not
            needed.
        seed : int
            Seed.
        new_groups : {"refuse", "sample"}
            What to do with levels of a category that the fit has not seen: refuse them, or draw
            their effects from the prior given each draw's hyperparameters.
        memory : float
            Most bytes that the computation may take, its result included.

        Returns
        -------
        xarray.DataTree
            Group posterior_predictive with the observed sites, group predictions with
            deterministic sites and latent sites that were drawn anew.
        """
        with computing():
            return predict(self.problem, self.data, new_data, seed, new_groups, memory)

    def loo(self, **options: Any) -> Any:
        """Leave-one-out predictive accuracy by Pareto-smoothed importance sampling.

        Parameters
        ----------
        **options
            Go to ``arviz_stats.loo``; ``var_name`` where several sites are observed.

        Returns
        -------
        arviz_stats.ELPDData
        """
        from bayes.criticism import loo

        return loo(self, **options)

    # -------------------------------------------------------------------- saving

    def save(self, path: str | os.PathLike) -> None:
        """Save as zarr, with checksums and a manifest; written whole or not at all.

        Parameters
        ----------
        path : path
            A folder, by custom ``*.zarr``. An earlier posterior there is replaced.
        """
        from bayes.storage import save

        save(self, path)

    def _repr_text(self) -> str:
        sizes = self.data["posterior"].sizes
        head = f"Posterior of {self.data['posterior'].attrs.get('model', 'a model')}"
        return (
            f"{head}: {sizes['chain']} chains x {sizes['draw']} draws by {self.method.name}; "
            f"{self.diagnostics.verdict}"
        )

    def __repr__(self) -> str:
        return self._repr_text()


def _stats(draws: Draws) -> xr.Dataset:
    coords = {
        "chain": np.arange(draws.chains),
        "draw": np.arange(next(iter(draws.values.values())).shape[1]),
    }
    stats = {k: (("chain", "draw"), v) for k, v in draws.stats.items() if v.ndim == 2}
    if draws.log_q is not None:
        stats["log_q"] = (("chain", "draw"), draws.log_q)
    return xr.Dataset(stats, coords=coords)


def _restart_note(info: Mapping[str, Any]) -> list[str]:
    restarts = info.get("restarts") or []
    moved = [str(chain) for chain, times in enumerate(restarts) if times]
    if not moved:
        return []
    return [
        f"during warm-up, chain {', '.join(moved)} sat where there is next to no posterior mass "
        "and was restarted from the others' region"
    ]


def _centred(problem: Problem) -> tuple[str, ...]:
    """Sites that reparam="auto" would change."""
    try:
        trace = trace_program(problem.model.fn, problem.data, 0)
        return tuple(centred_sites(problem.model.fn, problem.data, trace, problem.sites))
    except Exception:  # advice only
        return ()


def load(path: str | os.PathLike, model: Any = None) -> Posterior:
    """Load a saved posterior.

    Parameters
    ----------
    path : path
        Where it was saved.
    model : callable or Model, optional
        Its model, for predictions and what else needs it. A model that is not the saved one is
        refused.

    Returns
    -------
    Posterior

    Raises
    ------
    FileError
        Where it is damaged, foreign, of a newer schema or of another model.
    """
    from bayes.storage import load as load_posterior

    return load_posterior(path, model)

