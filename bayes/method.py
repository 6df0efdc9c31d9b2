"""Method: the contract every backend meets, and look-up by name."""

from __future__ import annotations

import abc
import dataclasses
import difflib
import functools
import importlib
import importlib.util
import os
import pkgutil
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Array

from bayes.errors import SettingsError, ShapeError, UnsupportedModelError
from bayes.model import Model
from bayes.normals import Normal
from bayes.problem import Problem
from bayes.stored_draws import StoredDraws

__all__ = [
    "Chunk",
    "Draws",
    "Method",
    "Moments",
    "Progress",
    "count_non_finite",
    "fitting_methods",
    "method_by_name",
    "methods",
]

_LEARNED = {
    "distribution_transformer": "DistributionTransformer",
    "simulation_bank": "SimulationBank",
}
"""Names of methods that are trained first, and the settings that they are trained with."""

Chunk = Mapping[str, np.ndarray]
"""One block's result: arrays by name, with leading (chain, draw) where they are draws."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run is.

    Parameters
    ----------
    done, total : int
        Units of work.
    text : str
        What it is doing.
    """

    done: int
    total: int
    text: str = ""


class Moments(NamedTuple):
    """Mean and standard deviation of a site, of its shape.

    Parameters
    ----------
    mean, sd : array
        Both real; complex numbers are pairs on a trailing axis.
    """

    mean: np.ndarray
    sd: np.ndarray


@dataclasses.dataclass(frozen=True)
class Draws:
    """Draws of a posterior on the constrained space.

    Parameters
    ----------
    values : dict of array
        By site, of shape (chain, draw, *site shape); those of a store are read as they are needed.
    stats : dict of array
        Sampler statistics, of shape (chain, draw, ...).
    chains : int
        Number of chains.
    positions : array of shape (chain, draw, d), optional
        Flat unconstrained positions.
    log_q : array of shape (chain, draw), optional
        Log density of the approximation at the draws; given when approximate.
    info : dict
        What the method found out, as JSON values: step sizes, restarts, a trace of its objective.
    non_finite : int, optional
        Numbers in the values that are not finite, where they were counted as they came.
    normal : Normal, optional
        The approximation as a normal distribution on the unconstrained space, or the nearest one.
    candidates : dict of array, optional
        Where the draws were resampled: ``lp`` and ``log_q`` of those that they were chosen from.
    moments : dict of Moments, optional
        By site, where a method knows them without the draws.
    """

    values: dict[str, np.ndarray] | dict[str, StoredDraws]
    stats: dict[str, np.ndarray]
    chains: int
    positions: np.ndarray | None = None
    log_q: np.ndarray | None = None
    info: dict[str, Any] = dataclasses.field(default_factory=dict)
    non_finite: int | None = None
    normal: Normal | None = None
    candidates: dict[str, np.ndarray] | None = None
    moments: dict[str, Moments] | None = None

    def __post_init__(self) -> None:
        lengths: dict[int, str] = {}
        for name, value in {**self.values, **self.stats}.items():
            if value.ndim < 2 or value.shape[0] != self.chains:
                swapped = value.ndim >= 2 and value.shape[1] == self.chains
                raise ShapeError(
                    f"draws of '{name}' have shape {value.shape}; expected (chain, draw, ...) with "
                    f"{self.chains} chains" + ("; chain and draw look swapped" if swapped else "")
                )
            lengths.setdefault(value.shape[1], name)
        if len(lengths) > 1:
            (a, first), (b, second) = list(lengths.items())[:2]
            raise ShapeError(f"unequal numbers of draws: '{first}' has {a}, '{second}' has {b}")

    @property
    def length(self) -> int:
        """Draws a chain."""
        return next(iter(self.values.values())).shape[1]


def count_non_finite(values: Mapping[str, np.ndarray]) -> int:
    """Numbers that are not finite."""
    return sum(int((~np.isfinite(v)).sum()) for v in values.values() if v.dtype.kind == "f")


@dataclasses.dataclass(frozen=True)
class Method(abc.ABC):
    """A way from a problem to draws of its posterior.

    A subclass is a frozen dataclass: its fields are its settings. ``fit`` drives it, and gives it
    progress, a time budget, interruption, checkpoints after every block and exact resume.
    """

    name: ClassVar[str] = ""
    """Name for ``fit(..., method=name)``; empty for classes that are not methods themselves."""
    exact: ClassVar[bool] = True
    """Whether the draws' distribution tends to the posterior as they grow in number."""
    marginal: ClassVar[bool] = True
    """Whether it works with the log density of the continuous sites, discrete ones summed out. A
    method that does not treats discrete sites and subsampled plates itself."""

    reparam: ClassVar[str | None] = None
    """What ``fit`` takes for ``reparam`` where neither it nor the model is told."""
    structured: ClassVar[bool] = False
    """Whether it solves models of a structure of its own, and is the first choice for them."""
    refinable: ClassVar[bool] = True
    """Whether ``refine`` can correct its draws: whether they have a log density."""
    learned: ClassVar[bool] = False
    """Whether it is trained before it can be used, so that a name alone does not say which."""

    @abc.abstractmethod
    def check(self, problem: Problem) -> None:
        """Raise UnsupportedModelError: what is missing, and which methods fit instead."""

    @abc.abstractmethod
    def init(self, problem: Problem, key: Array) -> Any:
        """The first state, a pytree of arrays."""

    @abc.abstractmethod
    def step(self, problem: Problem, state: Any) -> tuple[Any, Chunk | None]:
        """One bounded block of work; the state that follows and what it brought."""

    @abc.abstractmethod
    def done(self, problem: Problem, state: Any) -> bool:
        """Whether the method is finished by its own rule."""

    @abc.abstractmethod
    def finish(self, problem: Problem, state: Any, chunks: list[Chunk], key: Array) -> Draws:
        """Turn the chunks into draws."""

    def rewritten(self, model: Model, data: Any) -> tuple[Model, Any]:
        """The model and the data that are bound in place of those of a call; by default the same.

        Parameters
        ----------
        model : Model
            The model, with what the call says of it.
        data : Any
            The data as they were given.
        """
        return model, data

    def escalation(self, draws: Draws) -> str | None:
        """What ``fit`` refines draws with where it is not told: None for nothing.

        It must follow from the draws alone, so that a run that is resumed takes the same way.
        """
        return None

    def progress(self, problem: Problem, state: Any) -> Progress | None:
        """How far the run is, for the progress line; None where it cannot be told."""
        return None

    @classmethod
    def structure(
        cls, problem: Problem, sites: Mapping[str, np.ndarray], info: Mapping[str, Any]
    ) -> Any:
        """What the method knows of a posterior beyond its draws; None where that is nothing.

        Parameters
        ----------
        problem : Problem
            Model and data.
        sites : mapping of array
            Draws by site, of shape (chain, draw, ...).
        info : mapping
            What the run found out.
        """
        return None

    def settings(self) -> dict[str, Any]:
        """The settings as JSON values; they enter the fingerprint of a checkpoint."""
        return {
            f.name: describe(getattr(self, f.name))
            for f in dataclasses.fields(self)
            if getattr(self, f.name) is not None
        }


def describe(value: Any) -> Any:
    """A JSON value that stands for a setting."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, functools.partial):
        parts = [f"{k}={describe(v)}" for k, v in value.keywords.items()]
        return f"{value.func.__name__}({', '.join(parts)})"
    if isinstance(value, Mapping):
        return {str(k): describe(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [describe(v) for v in value]
    if hasattr(value, "shape"):
        return np.asarray(value).tolist()
    return getattr(value, "__name__", type(value).__name__)


@functools.cache
def methods() -> dict[str, type[Method]]:
    """Every method by name: those in ``bayes.inference`` and of entry points ``bayes.methods``.

    Learned ones are not among them: they have no default configuration.
    """
    import bayes.inference

    for module in pkgutil.iter_modules(bayes.inference.__path__):
        importlib.import_module(f"bayes.inference.{module.name}")
    from importlib.metadata import entry_points

    for point in entry_points(group="bayes.methods"):
        point.load()
    found = {cls.name: cls for cls in _subclasses(Method) if cls.name and not cls.learned}
    return dict(sorted(found.items()))


def _subclasses(cls: type) -> list[type]:
    direct = cls.__subclasses__()
    return direct + [deeper for sub in direct for deeper in _subclasses(sub)]


def method_by_name(name: str) -> Method:
    """The default-configured method of a name.

    Raises
    ------
    SettingsError
        Where there is none, and lists those that exist; where it is a learned one.
    """
    if name.isidentifier() and importlib.util.find_spec(f"bayes.inference.{name}") is not None:
        # Most methods are in a module of their name: no need to import the others.
        importlib.import_module(f"bayes.inference.{name}")
        for cls in _subclasses(Method):
            if cls.name == name and not cls.learned:
                return cls()
    known = methods()
    if name not in known:
        _refuse_learned(name)
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise SettingsError(f"no method '{name}'; there are {', '.join(known)}{hint}")
    return known[name]()


def _refuse_learned(name: str) -> None:
    """Say how one comes by a method that is learned."""
    if name not in _LEARNED and not any(c.name == name and c.learned for c in _subclasses(Method)):
        return
    settings = f", bayes.{_LEARNED[name]}()" if name in _LEARNED else ""
    raise SettingsError(
        f"'{name}' is learned from simulations of a model, and has no default to be named: train "
        f"it first, trained = bayes.amortize(model, data{settings}), and pass method=trained"
    )


def fitting_methods(problem: Problem) -> list[str]:
    """Names of the methods whose check a problem passes."""
    fitting = []
    for name, cls in methods().items():
        if cls.marginal and problem.drawn_discrete:
            continue
        try:
            cls().check(problem)
        except UnsupportedModelError:
            continue
        fitting.append(name)
    return fitting
