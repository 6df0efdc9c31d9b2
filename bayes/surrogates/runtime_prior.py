"""A prior in place of a program's own: its numbers are an argument, so it is compiled once."""

from __future__ import annotations

import abc
import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from bayes.columns import Column
from bayes.data import Data
from bayes.errors import ModelError, SettingsError
from bayes.model import Model
from bayes.problem import Problem
from bayes.surrogates.mixtures import Mixture

__all__ = ["PRIOR_DRAWS", "Rewritten", "RuntimePrior", "digest_of_numbers", "is_free"]

ARGUMENT = "runtime_prior"
"""Argument of the rewritten program that brings the prior's numbers."""
PRIOR_DRAWS = 16384
"""Draws that the mixture which stands for a prior is fitted to."""


class RuntimePrior(abc.ABC):
    """A prior that takes the place of a program's own, its numbers an argument of the program.

    A second prior of the same kind compiles nothing.
    """

    def rewritten(self, model: Model, data: Any) -> tuple[Model, Data]:
        """The model with this prior, and its data with the prior's numbers among them.

        Parameters
        ----------
        model : Model
            The program with a prior of its own.
        data : dict, pandas.DataFrame, xarray.Dataset, polars.DataFrame or Data
            Its data.

        Returns
        -------
        tuple of (Model, Data)

        Raises
        ------
        SettingsError, ShapeError, UnsupportedModelError
            A prior that does not fit the program, by site.
        """
        if isinstance(model.fn, Rewritten):
            raise SettingsError(
                f"{model.name} has a run-time prior already: rewrite the program as it was written"
            )
        read = data if isinstance(data, Data) else Data.read(data, model.signature)
        if ARGUMENT in read.arguments:
            raise SettingsError(f"'{ARGUMENT}' names the prior: call that argument otherwise")
        self._check(model, read)
        form, numbers = self._parts()
        fn = Rewritten(model.fn, form, numbers)
        found = Model(
            fn,
            dims=model.dims,
            coords=model.coords,
            reparam=model.reparam,
            allow_prior=model.allow_prior,
            name=model.name,
        )
        return found, Data(
            {**read.arguments, ARGUMENT: numbers},
            {**read.columns, ARGUMENT: Column(ARGUMENT, numbers)},
            read.coords,
            read.notes,
        )

    @abc.abstractmethod
    def mixture(self, problem: Problem, components: int) -> Mixture:
        """The prior as a mixture of normals.

        Parameters
        ----------
        problem : Problem
            The rewritten model, bound to its data.
        components : int
            Number of components.

        Returns
        -------
        Mixture
            On the flat unconstrained space of the problem.
        """

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        """JSON values that tell one prior from another: its kind, its sites, a digest."""

    @abc.abstractmethod
    def _check(self, model: Model, data: Data) -> None:
        """Refuse a program that this cannot be the prior of."""

    @abc.abstractmethod
    def _parts(self) -> tuple[Any, dict[str, Any]]:
        """What is static, hashable and with a ``handler`` of the numbers; and the numbers."""


class Rewritten:
    """A program with another prior; the same program with the same kind of prior is the same.

    Where the numbers are not among its arguments, it takes its own.
    """

    # What new data need not bring: it stays as it was in the fit.
    own_arguments = (ARGUMENT,)

    def __init__(self, fn: Callable, form: Any, numbers: dict[str, Any]) -> None:
        functools.update_wrapper(self, fn, updated=[])
        self.fn, self.form, self.numbers = fn, form, numbers

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program under the prior of these numbers."""
        handler = self.form.handler(kwargs.pop(ARGUMENT, self.numbers))
        with handler:
            result = self.fn(*args, **kwargs)
        if handler.missing:
            raise ModelError(
                f"the program draws {', '.join(handler.missing)} where no prior can reach it (in "
                "a scan or behind a numpyro.handlers.block), or not at all"
            )
        return result

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Rewritten):
            return False
        return bool(other.fn == self.fn and other.form == self.form)

    def __hash__(self) -> int:
        return hash((Rewritten, self.fn, self.form))


def is_free(msg: Mapping[str, Any]) -> bool:
    """Whether a message is of a sample site that has no observed value."""
    return msg["type"] == "sample" and not msg["is_observed"]


def digest_of_numbers(numbers: Any, *more: Any) -> str:
    """A digest of a tree of arrays, and of what else tells it apart."""
    digest = hashlib.sha256(repr(more).encode())
    for path, leaf in jax.tree_util.tree_flatten_with_path(numbers)[0]:
        value = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)}{value.shape}{value.dtype}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()[:16]
