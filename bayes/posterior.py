"""Posterior: draws in a DataTree, with the model, the method and the verdict."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bayes.assembly import MethodRecord, draws_tree, judge
from bayes.compilation import computing
from bayes.diagnostics.checks import Diagnostics
from bayes.diagnostics.elements import draws_in_words
from bayes.errors import ModelError, SettingsError
from bayes.groups import log_probabilities, prior_groups
from bayes.method import Draws, methods
from bayes.predict import posterior_predictive, predict
from bayes.problem import Problem
from bayes.seeds import require_seed

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from bayes.diagnostics.report.report import Report
    from bayes.predictive_checks import PredictiveCheck
    from bayes.surrogates.surrogate import Surrogate

__all__ = ["MethodRecord", "Posterior", "load"]

_ON_REQUEST = ("log_likelihood", "log_prior", "prior", "prior_predictive", "posterior_predictive")


class Posterior:
    """A posterior: draws, how they were made, and how far they can be trusted.

    Parameters
    ----------
    data : xarray.DataTree, or callable that gives it
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
        data: xr.DataTree | Callable[[], xr.DataTree],
        method: MethodRecord,
        diagnostics: Diagnostics,
        problem: Problem | None,
    ) -> None:
        self._make_data = data if callable(data) else None
        self._data = None if callable(data) else data
        self.method = method
        self.diagnostics = diagnostics
        self._problem = problem
        self._structure: Any = None
        self.stored: Any = None  # what its file says of model and data, where it has one

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

        def tree() -> xr.DataTree:
            with computing():
                made = draws_tree(problem, draws)
            about = {"model": problem.model.name, "method": method.name, "seed": method.seed}
            made["posterior"].attrs.update(about)
            return made

        return cls(tree, method, judge(problem, draws, interrupted, non_finite), problem)

    @property
    def data(self) -> xr.DataTree:
        """The groups; put together when they are first asked for."""
        if self._data is None:
            assert self._make_data is not None
            self._data, self._make_data = self._make_data(), None
        return self._data

    @data.setter
    def data(self, tree: xr.DataTree) -> None:
        self._data, self._make_data = tree, None

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
                "this posterior has no model: bayes.load(path, model=...) or "
                "bayes.merge(..., data=...) gives it one"
            )
        return self._problem

    @property
    def has_model(self) -> bool:
        """Whether its model is at hand, for predictions and what else needs it."""
        return self._problem is not None

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
                return self.data[group].to_dataset()[site]
        raise KeyError(
            f"no site '{site}' in the posterior; it has "
            f"{', '.join(map(str, self.data['posterior'].data_vars))}"
        )

    @property
    def structure(self) -> Any:
        """What a structured method knows of the posterior in closed form; None of other methods.

        Of ``"kronecker_sbl"`` a :class:`bayes.inference.kronecker.posterior.KroneckerPosterior`:
        ``mean``, ``sd``, ``relevances``, ``noise``, ``support()``, ``linear()``, ``predict()``,
        ``draws()``, ``log_evidence`` and ``trace``.
        """
        if self._structure is None:
            cls = methods().get(self.method.name)
            if cls is not None:
                sites = {str(n): v.values for n, v in self.data["posterior"].data_vars.items()}
                with computing():
                    self._structure = cls.structure(self.problem, sites, self.method.info)
        return self._structure

    def moments(self, site: str) -> xr.Dataset:
        """Mean and standard deviation of a site.

        Parameters
        ----------
        site : str
            A latent or deterministic site.

        Returns
        -------
        xarray.Dataset
            ``mean`` and ``sd`` of the site's dims; its attribute ``exact`` tells whether they are
            known, or come from the draws.
        """
        from bayes.moments import moments

        return moments(self, site)

    def linear(self, *maps: Any, site: str | None = None) -> xr.Dataset:
        """Mean and standard deviation of (C_1 x ... x C_I) x, for a site x with I axes.

        Parameters
        ----------
        *maps : array of shape (k_i, n_i)
            The C_i, one an axis: a reconstruction, a contrast, a sum.
        site : str, optional
            The site; by default that of Kronecker coefficients, or the only one with I axes.

        Returns
        -------
        xarray.Dataset
            ``mean`` and ``sd``, of dims (..., <site>_map_0, ...); its attribute ``exact`` tells
            whether they are in closed form, or come from the draws. Sites of complex pairs are
            mapped as complex numbers.

        Raises
        ------
        ShapeError
            Where the maps do not fit the site.

        Examples
        --------
        >>> post.linear(basis_rows, basis_columns, basis_bands)["mean"]
        """
        from bayes.moments import linear

        return linear(self, maps, site)

    def summary(self, **options: Any) -> pd.DataFrame:
        """Table of means, spreads, intervals, R-hat, effective sample sizes and Monte Carlo errors.

        Draws of an approximation are independent, and what Markov chains are judged by says nothing
        of them: their table has means, spreads and intervals.

        Parameters
        ----------
        **options
            Go to ``arviz_stats.summary``: ``var_names``, ``round_to``, ``ci_prob``, ...

        Returns
        -------
        pandas.DataFrame
            One row an element.
        """
        from bayes.diagnostics.table import summary, summary_kind

        return summary(self.data, **{"kind": summary_kind(self.data), **options})

    def to_unconstrained(self) -> xr.DataArray:
        """Draws as flat unconstrained vectors.

        Returns
        -------
        xarray.DataArray of dims (chain, draw, unconstrained)
        """
        import xarray as xr

        problem = self.problem
        values = {s.name: self.draws(s.name).values for s in problem.program.latents}
        with computing():
            flat = problem.unconstrain(values)
        coords = {"unconstrained": problem.program.coordinates}
        return xr.DataArray(flat, dims=("chain", "draw", "unconstrained"), coords=coords)

    def extend(
        self, *groups: str, seed: int = 0, draws: int = 1000, memory: int | float = 2**30
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
        import xarray as xr

        for group in groups:
            if group not in _ON_REQUEST:
                raise SettingsError(f"no group '{group}'; there are {', '.join(_ON_REQUEST)}")
        require_seed(seed)
        if draws < 1:
            raise SettingsError(f"draws must be positive, got {draws}")
        with computing():
            for group in dict.fromkeys(groups):
                found = {}
                if group in ("prior", "prior_predictive"):
                    found = prior_groups(self.problem, seed, draws, memory)
                elif group == "posterior_predictive":
                    found[group] = posterior_predictive(self.problem, self.data, seed, memory)
                else:
                    likelihood = group == "log_likelihood"
                    found[group] = log_probabilities(
                        self.problem, self.data, memory, likelihood=likelihood
                    )
                for name, dataset in found.items():
                    self.data[name] = xr.DataTree(dataset)
        return self

    def predict(
        self,
        new_data: Any = None,
        *,
        seed: int = 0,
        new_groups: str = "refuse",
        memory: int | float = 2**30,
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

    def loo(self, var_name: str | None = None, **options: Any) -> Any:
        """Leave-one-out predictive accuracy by Pareto-smoothed importance sampling.

        Parameters
        ----------
        var_name : str, optional
            The observed site, where there are several.
        **options
            Go to ``arviz_stats.loo``.

        Returns
        -------
        arviz_stats.ELPDData
        """
        from bayes.criticism import loo

        return loo(self, var_name, **options)

    def check(
        self,
        statistic: str | Callable[[Any], Any],
        *,
        site: str | None = None,
        seed: int = 0,
        name: str | None = None,
    ) -> PredictiveCheck:
        """Check whether data that the fitted model makes resemble the observations in some respect.

        Parameters
        ----------
        statistic : callable or {"mean", "sd", "min", "max", "median", "zeros", "skew"}
            From an array of one data set, of the shape of the observed site, to a number. Missing
            and masked observations are left out of the observations and of every replicate, as a
            vector of those that are there. "zeros" is their share.
        site : str, optional
            The observed site, where there are several.
        seed : int
            Seed of the replicates, where the group posterior_predictive is not there; they are
            not kept.
        name : str, optional
            What to call the statistic; the function's name by default.

        Returns
        -------
        PredictiveCheck
            The statistic of observations and replicates, a p-value and whether it is ``ok``.

        Raises
        ------
        SettingsError
            Where the statistic fails or gives no number: says on which data and what it gave.
        ModelError
            Where there are no replicates and no model to make them with.

        Examples
        --------
        >>> post.check("max")
        >>> post.check(lambda y: y.var() / y.mean(), name="dispersion")
        """
        from bayes.predictive_checks import check

        return check(self, statistic, site, seed, name)

    def report(self, path: str | os.PathLike | None = None, **options: Any) -> Report:
        """Write what the diagnostics say as a report for others to read.

        Prior, predictive and log likelihood draws that it takes are computed where they are not
        there; the posterior stays as it is.

        Parameters
        ----------
        path : path, optional
            Where to save it: ``.html`` is one page with its figures that needs no network, ``.md``
            is text, ``.json`` is for machines.
        **options
            ``title``: heading; ``seed``: seed of prior and predictive draws; ``against_nuts``:
            whether to hold an approximation's draws against a short NUTS run.

        Returns
        -------
        Report
            Shown by notebooks, printed as text.

        Raises
        ------
        SettingsError
            Where the path or an option makes no sense, before anything is computed.

        Examples
        --------
        >>> post.report("report.html")
        """
        from bayes.reporting import report

        return report(self, path, **options)

    def save(self, path: str | os.PathLike) -> None:
        """Save as zarr, with checksums and a manifest; written whole or not at all.

        Parameters
        ----------
        path : path
            A folder, by custom ``*.zarr``. An earlier posterior there is replaced.
        """
        from bayes.storage import save

        save(self, path)

    def __repr__(self) -> str:
        sizes = self.data["posterior"].sizes
        head = f"Posterior of {self.data['posterior'].attrs.get('model', 'a model')}"
        return (
            f"{head}: {draws_in_words(sizes['chain'], sizes['draw'])} by {self.method.name}; "
            f"{self.diagnostics.verdict}"
        )

    def _repr_html_(self) -> str:
        from bayes.notebook import short_html

        return short_html(self)


def _is_surrogate(path: pathlib.Path) -> bool:
    """Whether a path is to be read as a surrogate: by its name, or by how the file begins."""
    if path.suffix == ".safetensors" or not path.is_file():
        return path.suffix == ".safetensors" and not path.is_dir()
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{"


def load(path: str | os.PathLike, model: Any = None) -> Posterior | Surrogate:
    """Load a saved posterior, or a trained surrogate.

    Parameters
    ----------
    path : path
        Where it was saved: a folder of a posterior, a file of a surrogate.
    model : callable or Model, optional
        Its model. A posterior needs it for predictions and the like; a surrogate always does. A
        model that is not the saved one is refused. Where distributions of single sites were
        replaced (``trained.with_prior({"mu": ...})``), it is the model with these,
        ``trained.with_prior({"mu": ...}).rewritten(model, data)[0]``.

    Returns
    -------
    Posterior or Surrogate
        What was saved there; a surrogate is a method for :func:`bayes.fit`.

    Raises
    ------
    FileError
        Where it is damaged, foreign, of a newer schema or of another model.
    SettingsError
        Where it is a surrogate and no model is given.

    Examples
    --------
    >>> bayes.load("schools.zarr", model=schools).predict(new_data)
    >>> bayes.fit(schools, data, method=bayes.load("schools.safetensors", model=schools))
    """
    file = pathlib.Path(path)
    if _is_surrogate(file):
        from bayes.surrogates.files import load_surrogate

        return load_surrogate(file, model)
    from bayes.storage import load as load_posterior

    return load_posterior(file, model)
