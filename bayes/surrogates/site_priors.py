"""Other distributions for some latent sites of a program, by name."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array
from numpyro.distributions.transforms import biject_to
from numpyro.primitives import Messenger

from bayes.data import Data
from bayes.dependence import NOTHING, dependence
from bayes.errors import SettingsError, ShapeError, UnsupportedModelError
from bayes.model import Model
from bayes.precision import double_precision
from bayes.problem import Problem
from bayes.program import is_factor
from bayes.structure import trace_program
from bayes.subsampling import Whole
from bayes.supports import base_distribution, same_support
from bayes.surrogates.fitting import fit_mixture
from bayes.surrogates.mixtures import Mixture
from bayes.surrogates.runtime_prior import PRIOR_DRAWS, RuntimePrior, digest_of_numbers, is_free
from bayes.surrogates.site_families import Constant, Family, take_apart
from bayes.threefry import seed_key

__all__ = ["SitePriors"]

_MOST_MIXTURES = 4
"""Mixtures that a prior keeps, each for a program and for numbers that it is made of."""


@dataclasses.dataclass(frozen=True)
class _SiteForm:
    families: tuple[tuple[str, Family], ...]

    def handler(self, numbers: Mapping[str, Any]) -> _SiteHandler:
        return _SiteHandler({n: family.made_of(numbers[n]) for n, family in self.families})


class _SiteHandler(Messenger):
    """Gives latent sites other distributions, by name."""

    def __init__(self, priors: Mapping[str, Any]) -> None:
        super().__init__()
        self._priors = priors
        self.missing = tuple(priors)

    def process_message(self, msg: Any) -> None:
        name = msg.get("name")
        if name not in self._priors or msg["type"] != "sample":
            return
        self.missing = tuple(n for n in self.missing if n != name)
        if not msg["is_observed"]:
            msg["fn"] = _fitted_to(name, self._priors[name], msg["fn"])


def _fitted_to(name: str, prior: Any, site: Any) -> Any:
    """A distribution of the shapes of a site's own, with its mask."""
    more = site.event_dim - prior.event_dim
    event = tuple(site.event_shape)
    batch = tuple(site.batch_shape) + event[: max(more, 0)]
    try:
        fits = more >= 0 and prior.event_shape == event[more:]
        fits = fits and np.broadcast_shapes(prior.batch_shape, batch) == batch
    except ValueError:
        fits = False
    if not fits:
        raise ShapeError(
            f"prior of '{name}': {type(base_distribution(prior)).__name__} has batch shape "
            f"{prior.batch_shape} and event shape {prior.event_shape}; the site has "
            f"{tuple(site.batch_shape)} and {event}: give a scalar distribution, one of these "
            "shapes, or a sampler of all sites where elements depend on each other"
        )
    found = prior if prior.batch_shape == batch else prior.expand(batch)
    found = found.to_event(more) if more else found
    mask = getattr(site, "_mask", None) if isinstance(site, dist.MaskedDistribution) else None
    return found if mask is None else found.mask(mask)


@dataclasses.dataclass(frozen=True, eq=False)
class SitePriors(RuntimePrior):
    """Other distributions for some latent sites; the others keep theirs.

    Parameters
    ----------
    priors : mapping of numpyro Distribution
        By site. A distribution of fewer elements than the site is expanded to it, as a scalar one
        is for a vector or in a plate. Supports are those of the program's own distributions.

    Raises
    ------
    SettingsError
        What is no mapping from site to continuous distribution.

    Examples
    --------
    >>> SitePriors({"mu": dist.Normal(3.0, 1.0)})
    """

    priors: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not isinstance(self.priors, Mapping) or not self.priors:
            raise SettingsError("priors are a mapping from site to distribution, of at least one")
        for name, prior in self.priors.items():
            if not isinstance(prior, dist.Distribution):
                raise SettingsError(
                    f"prior of '{name}': expected a NumPyro distribution, got "
                    f"{type(prior).__name__}"
                )
            if isinstance(base_distribution(prior), dist.Delta) or _is_discrete(prior):
                raise SettingsError(
                    f"prior of '{name}': {type(base_distribution(prior)).__name__} has no density "
                    "on continuous values"
                )

    @functools.cached_property
    def _taken_apart(self) -> tuple[_SiteForm, dict[str, Any]]:
        apart = {n: take_apart(self.priors[n]) for n in sorted(self.priors)}
        form = _SiteForm(tuple((n, family) for n, (family, _) in apart.items()))
        return form, {n: numbers for n, (_, numbers) in apart.items() if numbers}

    def _parts(self) -> tuple[_SiteForm, dict[str, Any]]:
        form, numbers = self._taken_apart
        return form, {n: numbers.get(n, {}) for n in self.priors}

    def _check(self, model: Model, data: Data) -> None:
        with double_precision():
            trace = trace_program(Whole(model.fn), data, 0)
            sites = {n: s for n, s in trace.items() if s["type"] == "sample" and not is_factor(s)}
            free = [n for n, s in sites.items() if is_free(s) and not _is_discrete(s["fn"])]
            for name, prior in self.priors.items():
                if name not in sites:
                    raise SettingsError(
                        f"prior of '{name}': {model.name} has no such site; it has "
                        f"{', '.join(free)}"
                    )
                site = sites[name]["fn"]
                if name not in free:
                    kind = "discrete" if _is_discrete(site) else "observed"
                    raise SettingsError(
                        f"prior of '{name}': the site is {kind}; a run-time prior is of "
                        f"continuous latent sites ({', '.join(free)})"
                    )
                _require_same_space(name, _fitted_to(name, prior, site), site)

    def mixture(self, problem: Problem, components: int) -> Mixture:
        """The prior as a mixture, fitted to 16384 draws of it; see :class:`RuntimePrior`.

        It is kept for other data whose arrays that the prior is made of are the same.
        """
        names = _made_of(problem)
        numbers = {n: v for n, v in problem.arrays.items() if n in names}
        key = (components, problem.program, digest_of_numbers(numbers))
        if key not in self._mixtures:
            found = fit_mixture(_prior_positions(problem), components, np.random.default_rng(0))
            self._mixtures[key] = found
            while len(self._mixtures) > _MOST_MIXTURES:
                del self._mixtures[next(iter(self._mixtures))]
        return self._mixtures[key]

    @functools.cached_property
    def _mixtures(self) -> dict[Hashable, Mixture]:
        return {}

    def describe(self) -> dict[str, Any]:
        """JSON values; see :class:`RuntimePrior`."""
        form, numbers = self._taken_apart
        kinds = {n: type(base_distribution(p)).__name__ for n, p in self.priors.items()}
        fixed = [n for n, family in form.families if _is_fixed(family)]
        return {"kind": "sites", "sites": kinds, "digest": digest_of_numbers(numbers, kinds, fixed)}


def _is_discrete(fn: Any) -> bool:
    return bool(fn.support.is_discrete)


def _is_fixed(family: Family) -> bool:
    return isinstance(family.structure, Constant)


def _require_same_space(name: str, prior: Any, site: Any) -> None:
    """Refuse a support whose bijection is another: positions would stand for other values."""
    if same_support(prior.support, site.support):
        return
    try:
        own, other = biject_to(site.support), biject_to(prior.support)
        shape = own.inverse_shape(site.shape())
        points = np.random.default_rng(0).normal(size=shape)
        with numpyro.validation_enabled(False), jax.numpy_rank_promotion("allow"):
            same = other.inverse_shape(prior.shape()) == shape
            same = same and np.allclose(own(points), other(points), rtol=1e-6, atol=1e-9)
    except (NotImplementedError, ValueError, TypeError):
        same = False
    if not same:
        raise SettingsError(
            f"prior of '{name}': its support is {_words(prior.support)}, that of the program's own "
            f"prior is {_words(site.support)}; give a distribution on the same support"
        )


def _words(support: Any) -> str:
    while isinstance(support, dist.constraints.independent):
        support = support.base_constraint
    low, high = (getattr(support, f"{end}_bound", None) for end in ("lower", "upper"))
    name = type(support).__name__.lstrip("_")
    bounds = [f"{np.asarray(b).ravel()[0]:g}" for b in (low, high) if b is not None]
    return f"{name}({', '.join(bounds)})" if bounds else name


def _one_position(problem: Problem) -> Callable[[Array, Any], Array]:
    """A flat unconstrained position drawn from the prior, by the data of a key and the arrays."""
    program = problem.program

    def one(words: Array, arrays: Any) -> Array:
        key = jax.random.wrap_key_data(words, impl="threefry2x32")
        return program.unconstrain(program.simulate(key, arrays), arrays)

    return one


def _made_of(problem: Problem) -> frozenset[str]:
    """Arguments that prior draws depend on: a prior may be scaled by a covariate, say."""

    def find() -> frozenset[str]:
        if problem.program.constants is not None:
            return frozenset(problem.arrays)
        words = np.zeros(2, np.uint32)
        try:
            closed = jax.make_jaxpr(_one_position(problem))(words, problem.arrays)
            paths = [p for p, _ in jax.tree_util.tree_flatten_with_path(problem.arrays)[0]]
            inputs = [NOTHING, *(frozenset((str(p[0].key),)) for p in paths)]
            found = dependence(closed.jaxpr, inputs, [NOTHING] * len(closed.consts))
        except Exception:  # what it depends on cannot be told
            return frozenset(problem.arrays)
        return frozenset().union(*found.outputs)

    with double_precision():
        return problem.program.once("prior is made of", find)


def _prior_positions(problem: Problem) -> np.ndarray:
    """Flat unconstrained positions drawn from the prior."""
    program, one = problem.program, _one_position(problem)

    def all_of_them(key: Array, arrays: Any) -> Array:
        words = jax.random.key_data(jax.random.split(key, PRIOR_DRAWS))
        return jax.vmap(one, (0, None))(words, arrays)

    with double_precision():
        run = program.once("prior positions", lambda: jax.jit(all_of_them))
        try:
            return np.asarray(run(seed_key(0), problem.arrays))
        except NotImplementedError as error:
            flat = [s.name for s in problem.sites.values() if "Improper" in s.distribution]
            raise UnsupportedModelError(
                f"the prior of {', '.join(flat) or 'a site'} is improper and has no draws: give "
                "it a proper one"
            ) from error
