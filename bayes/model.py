"""Model: a NumPyro program with names for its dimensions; bound to data it is a problem."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bayes.data import Data, Signature
from bayes.errors import ModelError
from bayes.problem import Problem
from bayes.structure import SubsampledPlate
from bayes.subsampling import Whole

__all__ = ["Model"]


class Model:
    """A NumPyro program.

    Parameters
    ----------
    fn : callable
        The program. Its arguments are filled from data by name; an argument that may be None is
        what can be observed.
    dims : mapping, optional
        Names of the dimensions of a site that no plate names, by site.
    coords : mapping, optional
        Labels by dimension.
    reparam : None, "auto", mapping or callable, optional
        ``"auto"`` non-centres location-scale sites with latent parents; a mapping from site to a
        ``numpyro.infer.reparam.Reparam`` is used as it is. Draws are of the original sites.
    allow_prior : bool
        Whether a program without any observed site may be fitted: its posterior is its prior.
    name : str, optional
        What to call it; the program's name by default.

    Examples
    --------
    >>> model = bayes.Model(schools, reparam="auto")
    >>> post = bayes.fit(model, {"sigma": sigma, "y": y})
    """

    def __init__(
        self,
        fn: Callable,
        *,
        dims: Mapping[str, Sequence[str]] | None = None,
        coords: Mapping[str, Any] | None = None,
        reparam: Any = None,
        allow_prior: bool = False,
        name: str | None = None,
    ) -> None:
        if isinstance(fn, Model):
            raise ModelError("fn is a Model already; use Model.replace to change its settings")
        if not callable(fn):
            raise ModelError(f"a model is a NumPyro program, a callable; got {type(fn).__name__}")
        self.fn = fn
        self.dims = dict(dims or {})
        self.coords = dict(coords or {})
        self.reparam = reparam
        self.allow_prior = allow_prior
        self.signature = Signature.of(fn)
        self.name = name or self.signature.program

    def replace(
        self,
        *,
        dims: Mapping[str, Sequence[str]] | None = None,
        coords: Mapping[str, Any] | None = None,
        reparam: Any = None,
    ) -> Model:
        """Another model of the same program; what is None stays."""
        return Model(
            self.fn,
            dims={**self.dims, **(dims or {})},
            coords={**self.coords, **(coords or {})},
            reparam=self.reparam if reparam is None else reparam,
            allow_prior=self.allow_prior,
            name=self.name,
        )

    def bind(self, data: Any, *, need_observed: bool = True, marginal: bool = True) -> Problem:
        """Check data, match them to the program and read its structure.

        Parameters
        ----------
        data : dict, pandas.DataFrame, xarray.Dataset, polars.DataFrame or Data
            The data.
        need_observed : bool
            Whether a program without observed sites is refused.
        marginal : bool
            Whether discrete latent sites are summed out; if not, a method draws them itself.

        Returns
        -------
        Problem
            Sites, bijections, log density, prior and prior predictive draws; those of all data
            where plates take subsamples, which is what these estimate.

        Raises
        ------
        DataError, ShapeError, ModelError, UnsupportedModelError
            What is wrong, by site, column and row.
        """
        read = data if isinstance(data, Data) else Data.read(data, self.signature)
        need = need_observed and not self.allow_prior
        try:
            model = self if marginal else self._whole()
            return Problem(model, read, need_observed=need, marginal=marginal)
        except SubsampledPlate as found:
            problem = Problem(self._whole(), read, need_observed=need, marginal=marginal)
            problem.notes.append(f"{found}; the posterior is that of all its elements")
            return problem

    def _whole(self) -> Model:
        """The same model with plates that take all their elements."""
        model = copy.copy(self)
        model.fn = Whole(self.fn)
        return model

    def __repr__(self) -> str:
        return f"Model({self.signature})"


def as_model(model: Any) -> Model:
    """A Model from a program, or the model itself."""
    return model if isinstance(model, Model) else Model(model)
