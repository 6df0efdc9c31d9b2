"""A program of the Kronecker distributions, recognised in its trace by type and object identity."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import numpyro
from jax.extend.core import Literal
from numpyro import handlers
from numpyro.distributions import MaskedDistribution, constraints

from bayes.distributions.complex_kronecker import ComplexKroneckerLinear, ComplexKroneckerNormal
from bayes.distributions.kronecker import KroneckerLinear, KroneckerNormal
from bayes.errors import DataError, UnsupportedModelError
from bayes.inference.kronecker.evidence import observe
from bayes.inference.kronecker.penalties import PRIORS, Prior
from bayes.inference.kronecker.sparse_model import Axis, Noise, SparseModel
from bayes.precision import double_precision
from bayes.problem import Problem
from bayes.program import is_factor
from bayes.steps import Step, evaluate, flatten, following, used
from bayes.supports import base_distribution

__all__ = ["Recognised", "recognise"]

_PAIRS = {KroneckerLinear: KroneckerNormal, ComplexKroneckerLinear: ComplexKroneckerNormal}
_OTHERS = "method='nuts' and method='vi' take any program"


@dataclasses.dataclass(frozen=True)
class Recognised:
    """What each part of a program is to the solver.

    Parameters
    ----------
    coefficients, observed : str
        Sites of x and y.
    scales : tuple of str or None
        Site that the prior variances along each axis are made of; None where they are given.
    noise : str or None
        Site that the noise is made of; None where it is given.
    model : SparseModel
        The arrays. Of masked observations those that are missing are zero.
    batch : tuple of int
        Shape of the snapshots.
    pairs : bool
        Whether complex numbers are pairs on a trailing axis.
    mask : array of bool, shape (L, m_1, ..., m_I), or None
        Where there are observations, if some are missing.
    factors : tuple of array of shape (m_i, n_i)
        As they were given.
    y : array of shape (L, m_1, ..., m_I)
        Observations.
    """

    coefficients: str
    observed: str
    scales: tuple[str | None, ...]
    noise: str | None
    model: SparseModel
    batch: tuple[int, ...]
    pairs: bool
    mask: np.ndarray | None
    factors: tuple[np.ndarray, ...]
    y: np.ndarray

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of coefficients along each axis."""
        return tuple(axis.size for axis in self.model.axes)

    @property
    def numbers(self) -> int:
        """Real numbers that were observed."""
        observed = self.y.size if self.mask is None else int(self.mask.sum())
        return observed * (2 if self.pairs else 1)


def recognise(problem: Problem) -> Recognised:
    """The Kronecker model that a program is.

    Parameters
    ----------
    problem : Problem
        Program and data.

    Returns
    -------
    Recognised

    Raises
    ------
    UnsupportedModelError
        What in the program is something else, and which methods take it.
    """
    return problem.once("kronecker", lambda: _recognise(problem))


def _refuse(reason: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"kronecker_sbl takes x ~ KroneckerNormal(variances), y ~ KroneckerLinear(factors, x, "
        f"noise), observed, and priors of variances and noise; {reason}; {_OTHERS}"
    )


def _recognise(problem: Problem) -> Recognised:
    latents = {s.name: jax.ShapeDtypeStruct(s.shape, np.float64) for s in problem.program.latents}
    found = _Reader(problem)
    with double_precision():
        closed = jax.make_jaxpr(found.read)(latents, problem.arrays)
        steps, inputs, outputs, constants = flatten(closed.jaxpr, closed.consts)
        names = dict(zip(inputs, sorted(latents), strict=False))
        known = dict(zip(inputs[len(latents) :], jax.tree.leaves(problem.arrays), strict=True))
        known |= constants
        values = _Values(steps, names, known, jax.tree.unflatten(found.structure, outputs))
        return _assemble(found, values)


class _Reader:
    """Reads a trace whose latent values are inputs."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.structure: Any = None
        self.priors: dict[str, str] = {}
        self.observed = self.coefficients = ""
        self.batch: tuple[int, ...] = ()
        self.pairs = False

    def read(self, latents: Mapping[str, Any], arrays: Mapping[str, Any]) -> list[Any]:
        program = self.problem.program
        fn = handlers.substitute(handlers.seed(program.fn, jax.random.key(0)), data=dict(latents))
        with numpyro.validation_enabled(False), jax.numpy_rank_promotion("allow"):
            trace = handlers.trace(fn).get_trace(**program.arguments(arrays))
        leaves, self.structure = jax.tree.flatten(self._parts(trace))
        return leaves

    def _parts(self, trace: Mapping[str, Any]) -> dict[str, Any]:
        sites = {n: s for n, s in trace.items() if s["type"] == "sample"}
        fn = self._likelihood(sites)
        normal = self._prior_of(fn, sites)
        parts: dict[str, Any] = {
            "factors": list(fn.factors),
            "noise": fn.noise,
            "mask": fn.observed,
            "y": sites[self.observed]["value"],
            "variances": list(normal.variances),
            "operators": list(normal.operators or (None,) * len(normal.variances)),
        }
        if np.ndim(fn.noise):
            raise _refuse(f"the noise has shape {np.shape(fn.noise)}, which is not one number")
        for place, value in enumerate(normal.variances):
            if np.ndim(value) != 1:
                raise _refuse(f"variances {place} have shape {np.shape(value)}, not one dimension")
        others = [n for n, s in sites.items() if not s["is_observed"] and n != self.coefficients]
        parts["parameters"] = {name: self._parameters(name, sites[name]) for name in others}
        return parts

    def _likelihood(self, sites: Mapping[str, Any]) -> Any:
        observed = {n: s for n, s in sites.items() if s["is_observed"]}
        factors = [n for n, s in observed.items() if is_factor(s)]
        if factors:
            raise _refuse(f"'{factors[0]}' is a numpyro.factor")
        fitting = [n for n, s in observed.items() if type(base_distribution(s["fn"])) in _PAIRS]
        if not fitting:
            raise _refuse("no observed site is a KroneckerLinear")
        if len(observed) > 1:
            other = next(n for n in observed if n != fitting[0])
            raise _refuse(f"there is another observed site, '{other}'")
        self.observed = fitting[0]
        _require_unweighted(self.observed, observed[self.observed])
        return base_distribution(observed[self.observed]["fn"])

    def _prior_of(self, fn: Any, sites: Mapping[str, Any]) -> Any:
        for name, site in sites.items():
            if site["is_observed"] or site["value"] is not fn.coef:
                continue
            _require_unweighted(name, site)
            normal = base_distribution(site["fn"])
            if type(normal) is not _PAIRS[type(fn)]:
                raise _refuse(
                    f"the coefficients '{name}' are {type(normal).__name__}, not "
                    f"{_PAIRS[type(fn)].__name__}"
                )
            self.coefficients, self.pairs = name, type(fn) is ComplexKroneckerLinear
            modes = len(fn.factors) + self.pairs
            self.batch = tuple(np.shape(fn.coef)[:-modes])
            if np.shape(sites[self.observed]["value"])[:-modes] != self.batch:
                raise _refuse(f"'{self.observed}' has other snapshots than '{name}'")
            return normal
        raise _refuse(
            f"the coefficients of '{self.observed}' are not the value of a latent site itself"
        )

    def _parameters(self, name: str, site: Mapping[str, Any]) -> tuple[Any, ...]:
        _require_unweighted(name, site)
        prior = base_distribution(site["fn"])
        self.priors[name] = kind = type(prior).__name__
        if kind not in PRIORS or (
            kind == "ImproperUniform" and not _is_positive(site["fn"].support)
        ):
            raise _refuse(
                f"'{name}' is {kind}; priors of variances and noise are {', '.join(PRIORS)} "
                "(ImproperUniform on positive numbers)"
            )
        return tuple(getattr(prior, parameter) for parameter in PRIORS[kind])


def _require_unweighted(name: str, site: Mapping[str, Any]) -> None:
    if site.get("scale") is not None:
        raise _refuse(f"'{name}' is scaled")
    fn: Any = site["fn"]
    while hasattr(fn, "base_dist"):
        if isinstance(fn, MaskedDistribution) and fn._mask is not True:
            raise _refuse(
                f"'{name}' is masked by numpyro; KroneckerLinear(..., mask=) leaves entries out"
            )
        fn = fn.base_dist


def _is_positive(support: Any) -> bool:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support in (constraints.positive, constraints.nonnegative, constraints.softplus_positive)


class _Values:
    """The numbers of a trace: which are the values of latent sites, and what the others are."""

    def __init__(
        self, steps: list[Step], names: dict[int, str], known: dict[Any, Any], parts: Any
    ) -> None:
        self.names, self.parts = names, parts
        self._steps, self._known = steps, known
        self._makers = {v: step for step in steps for v in step.outputs}
        self._moving = {v for step in following(steps, names) for v in step.outputs} | set(names)

    def site(self, value: Any) -> str | None:
        """The site that something is the value of, itself."""
        return None if isinstance(value, Literal) else self.names.get(value)

    def power_of(self, value: Any) -> tuple[str, float] | None:
        """The site whose value, square or root something is, and the exponent."""
        if (name := self.site(value)) is not None:
            return name, 1.0
        step = None if isinstance(value, Literal) else self._makers.get(value)
        if step is None:
            return None
        inner, kind = self.site(step.inputs[0]), step.equation.primitive.name
        if inner is None:
            return None
        if kind == "sqrt":
            return inner, 0.5
        if kind == "pow" and self.is_known(step.inputs[1]):
            powers = np.unique(self.array(step.inputs[1], "a power"))
            return (inner, float(powers[0])) if list(powers) in ([0.5], [2.0]) else None
        twice = kind == "mul" and step.inputs[0] == step.inputs[1]
        squared = kind == "integer_pow" and step.equation.params["y"] == 2
        return (inner, 2.0) if twice or squared or kind == "square" else None

    def is_known(self, value: Any) -> bool:
        """Whether something follows from the data alone."""
        return isinstance(value, Literal) or value not in self._moving

    def array(self, value: Any, what: str) -> np.ndarray:
        """What something is that follows from the data alone."""
        if isinstance(value, Literal):
            return np.asarray(value.val)
        if not self.is_known(value):
            raise _refuse(f"{what} depends on latent sites")
        if value not in self._known:
            evaluate(used(self._steps, [value]), self._known)
        return np.asarray(self._known[value])


def _assemble(reader: _Reader, values: _Values) -> Recognised:
    parts = values.parts
    factors = [values.array(v, f"factor {i}") for i, v in enumerate(parts["factors"])]
    y = values.array(parts["y"], f"'{reader.observed}'")
    if reader.pairs:
        y = y[..., 0] + 1j * y[..., 1]
    modes = y.shape[len(reader.batch) :]
    mask = _mask(y.shape, parts, values)
    y = y.reshape(-1, *modes)
    if mask is not None:
        mask = mask.reshape(y.shape)
        y = np.where(mask, y, 0.0)
    dtype = complex if reader.pairs else float
    factors = tuple(np.asarray(f, complex if np.iscomplexobj(f) else float) for f in factors)
    y = np.asarray(y, dtype)
    taken: dict[str, str] = {}
    axes, scales = _axes(reader, values, taken)
    noise, noise_site = _noise(reader, values, taken)
    unused = [n for n in reader.priors if n not in taken]
    if unused:
        raise _refuse(f"latent site '{unused[0]}' is neither a variance nor the noise")
    model = SparseModel(observe(factors, y), axes, noise)
    for place, factor in enumerate(factors):
        if not np.any(factor):
            raise _refuse(f"factor {place} is zero, so that the observations are noise alone")
    if mask is not None and not mask.any():
        raise DataError(
            f"nothing of '{reader.observed}' was observed: its mask is False everywhere"
        )
    if reader.priors and not np.any(y):
        raise _refuse(f"all of '{reader.observed}' is zero, which tells nothing of any variance")
    return Recognised(
        reader.coefficients,
        reader.observed,
        scales,
        noise_site,
        model,
        reader.batch,
        reader.pairs,
        mask,
        factors,
        y,
    )


def _mask(shape: tuple[int, ...], parts: Mapping[str, Any], values: _Values) -> np.ndarray | None:
    """Where there are observations of this shape; None where nothing is missing."""
    if parts["mask"] is None:
        return None
    mask = np.broadcast_to(values.array(parts["mask"], "the mask").astype(bool), shape)
    return None if mask.all() else mask


def _axes(
    reader: _Reader, values: _Values, taken: dict[str, str]
) -> tuple[tuple[Axis, ...], tuple[str | None, ...]]:
    axes: list[Axis] = []
    scales: list[str | None] = []
    parts = values.parts
    for place, variance in enumerate(parts["variances"]):
        what = f"variances {place}"
        operator = parts["operators"][place]
        if operator is not None:
            operator = np.asarray(values.array(operator, f"operator {place}"), float)
        found = values.power_of(variance)
        if found is not None and found[1] >= 1.0:
            name, power = found
            prior = _prior(reader, values, name, what, taken, int(power))
            length = reader.problem.sites[name].shape[0]
            size = length if operator is None else len(operator)
            axes.append(Axis(size, prior, operator))
            scales.append(name)
            continue
        if not values.is_known(variance):
            raise _refuse(f"{what} are computed from latent sites, and not the value of one")
        given = np.asarray(values.array(variance, what), float)
        axes.append(Axis(len(given) if operator is None else len(operator), None, operator, given))
        scales.append(None)
    return tuple(axes), tuple(scales)


def _noise(reader: _Reader, values: _Values, taken: dict[str, str]) -> tuple[Noise, str | None]:
    sd = values.parts["noise"]
    found = values.power_of(sd)
    if found is not None and found[1] <= 1.0:
        name, power = found
        # The site is the standard deviation, or its square.
        prior = _prior(reader, values, name, "the noise", taken, 2 if power == 1.0 else 1)
        return Noise(prior), name
    if not values.is_known(sd):
        raise _refuse("the noise is computed from latent sites, and not the value of one")
    return Noise(None, float(values.array(sd, "the noise")) ** 2), None


def _prior(
    reader: _Reader,
    values: _Values,
    name: str,
    what: str,
    taken: dict[str, str],
    power: int,
) -> Prior:
    if name in taken:
        raise _refuse(f"'{name}' is both {taken[name]} and {what}")
    taken[name] = what
    if name == reader.coefficients:
        raise _refuse(f"{what} are the coefficients '{name}' themselves")

    def said(value: Any) -> np.ndarray:
        number = np.asarray(values.array(value, f"the prior of '{name}'"), float)
        return number.reshape(()) if number.size == 1 else number  # one for all elements

    parameters: Sequence[Any] = values.parts["parameters"][name]
    return Prior(reader.priors[name], tuple(said(v) for v in parameters), power)
