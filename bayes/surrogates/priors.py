"""Priors that are changed at run time: programs whose prior is an argument, compiled once."""

from __future__ import annotations

import abc
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array
from numpyro.distributions.transforms import biject_to
from numpyro.distributions.util import sum_rightmost
from numpyro.primitives import Messenger

from bayes.columns import Column
from bayes.data import Data
from bayes.errors import ModelError, SettingsError, ShapeError, UnsupportedModelError
from bayes.model import Model
from bayes.precision import double_precision
from bayes.problem import Problem
from bayes.program import Latent, is_factor
from bayes.structure import trace_program
from bayes.subsampling import Whole
from bayes.supports import base_distribution, same_support
from bayes.surrogates.fitting import fit_mixture
from bayes.surrogates.mixtures import Mixture, conditional_sample, element_log_probs, head
from bayes.threefry import seed_key

__all__ = ["JointPrior", "RuntimePrior", "SitePriors", "as_runtime_prior"]

_ARGUMENT = "runtime_prior"
"""Argument of the rewritten program that brings the prior's numbers."""
_DRAWS, _MOST_DRAWS, _LEAST_DRAWS = 4096, 8192, 10
"""Draws that a mixture is fitted to, at most of a posterior, and at least for each element."""


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
        if isinstance(model.fn, _Rewritten):
            raise SettingsError(
                f"{model.name} has a run-time prior already: rewrite the program as it was written"
            )
        read = data if isinstance(data, Data) else Data.read(data, model.signature)
        if _ARGUMENT in read.arguments:
            raise SettingsError(f"'{_ARGUMENT}' names the prior: call that argument otherwise")
        self._check(model, read)
        form, numbers = self._parts()
        fn = _Rewritten(model.fn, form, numbers)
        found = Model(
            fn,
            dims=model.dims,
            coords=model.coords,
            reparam=model.reparam,
            allow_prior=model.allow_prior,
            name=model.name,
        )
        return found, Data(
            {**read.arguments, _ARGUMENT: numbers},
            {**read.columns, _ARGUMENT: Column(_ARGUMENT, numbers)},
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


class _Rewritten:
    """A program with another prior; the same program with the same kind of prior is the same.

    Where the numbers are not among its arguments, as with new data, it takes its own.
    """

    def __init__(self, fn: Callable, form: Any, numbers: dict[str, Any]) -> None:
        functools.update_wrapper(self, fn, updated=[])
        self.fn, self.form, self.numbers = fn, form, numbers

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        handler = self.form.handler(kwargs.pop(_ARGUMENT, self.numbers))
        with handler:
            result = self.fn(*args, **kwargs)
        if handler.missing:
            raise ModelError(
                f"the program draws {', '.join(handler.missing)} where no prior can reach it (in "
                "a scan or behind a numpyro.handlers.block), or not at all"
            )
        return result

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Rewritten):
            return False
        return bool(other.fn == self.fn and other.form == self.form)

    def __hash__(self) -> int:
        return hash((_Rewritten, self.fn, self.form))


def _is_free(msg: Mapping[str, Any]) -> bool:
    return msg["type"] == "sample" and not msg["is_observed"]


# -------------------------------------------------------------------- site by site


class _Identity:
    """A value that is the same as itself only; it stands for what has no numbers to take out."""

    def __init__(self, value: Any) -> None:
        self.value = value


@dataclasses.dataclass(frozen=True)
class _Family:
    """A distribution without its numbers: how it is made of them, and their names in order."""

    structure: Any
    names: tuple[str, ...]

    def __hash__(self) -> int:  # not every structure has one
        return hash(self.names)

    def made_of(self, numbers: Mapping[str, Any]) -> Any:
        if isinstance(self.structure, _Identity):
            return self.structure.value
        return jax.tree.unflatten(self.structure, [numbers[n] for n in self.names])


@dataclasses.dataclass(frozen=True)
class _SiteForm:
    families: tuple[tuple[str, _Family], ...]

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
        apart = {n: _take_apart(self.priors[n]) for n in sorted(self.priors)}
        form = _SiteForm(tuple((n, family) for n, (family, _) in apart.items()))
        return form, {n: numbers for n, (_, numbers) in apart.items() if numbers}

    def _parts(self) -> tuple[_SiteForm, dict[str, Any]]:
        form, numbers = self._taken_apart
        return form, {n: numbers.get(n, {}) for n in self.priors}

    def _check(self, model: Model, data: Data) -> None:
        with double_precision():
            trace = trace_program(Whole(model.fn), data, 0)
            sites = {n: s for n, s in trace.items() if s["type"] == "sample" and not is_factor(s)}
            free = [n for n, s in sites.items() if _is_free(s) and not _is_discrete(s["fn"])]
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
        """The prior as a mixture, fitted to 4096 draws of it; see :class:`RuntimePrior`."""

        def fit() -> Mixture:
            generator = np.random.default_rng(0)
            return fit_mixture(_prior_positions(problem), components, generator)

        return problem.once(("prior mixture", components), fit)

    def describe(self) -> dict[str, Any]:
        """JSON values; see :class:`RuntimePrior`."""
        form, numbers = self._taken_apart
        kinds = {n: type(base_distribution(p)).__name__ for n, p in self.priors.items()}
        fixed = [n for n, family in form.families if _is_fixed(family)]
        return {"kind": "sites", "sites": kinds, "digest": _digest(numbers, kinds, fixed)}


def _is_discrete(fn: Any) -> bool:
    return bool(fn.support.is_discrete)


def _is_fixed(family: _Family) -> bool:
    return isinstance(family.structure, _Identity)


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


def _take_apart(prior: Any) -> tuple[_Family, dict[str, np.ndarray]]:
    """A distribution's form, and its numbers by name."""
    leaves, structure = jax.tree.flatten(prior)
    names = _leaf_names(prior)
    if len(names) != len(leaves) or len(set(names)) != len(names):
        names = [f"{i}" for i in range(len(leaves))]
    try:
        numbers = {n: _number(v) for n, v in zip(names, leaves, strict=True)}
        family = _Family(structure, tuple(names))
        assert family == _Family(jax.tree.structure(prior), tuple(names))
        with double_precision(), numpyro.validation_enabled(False):
            jax.eval_shape(lambda k, v: _run_once(family.made_of(v), k), jax.random.key(0), numbers)
    except Exception:  # its numbers cannot be taken out: it is a constant of the program
        return _Family(_Identity(prior), ()), {}
    return family, numbers


def _run_once(prior: Any, key: Array) -> Any:
    with jax.numpy_rank_promotion("allow"):
        return prior.log_prob(prior.sample(key))


def _number(leaf: Any) -> np.ndarray:
    """A leaf as an array: Normal(0, 1) and Normal(0.0, 1.0) are of one kind."""
    value = np.asarray(leaf)
    if value.dtype.kind not in "biuf":
        raise TypeError(f"{value.dtype} is no number")
    # Whole numbers of an array may be places or sizes, those of Python are parameters.
    is_real = value.dtype.kind == "f" or type(leaf) is int
    return value.astype(np.float64) if is_real else value


def _leaf_names(value: Any, path: str = "") -> list[str]:
    """Names of a distribution's leaves: their order is another in every process."""
    if isinstance(value, dist.Distribution):
        fields = type(value).gather_pytree_data_fields()
        parts = [_leaf_names(vars(value).get(f), f"{path}{f}.") for f in fields]
        return [name for part in parts for name in part]
    return [f"{path}{i}" for i in range(len(jax.tree.leaves(value)))]


def _prior_positions(problem: Problem) -> np.ndarray:
    """Flat unconstrained positions drawn from the prior."""
    program = problem.program

    def one(key: Array, arrays: Any) -> Array:
        return program.unconstrain(program.simulate(key, arrays), arrays)

    def all_of_them(key: Array, arrays: Any) -> Array:
        return jax.vmap(one, (0, None))(jax.random.split(key, _DRAWS), arrays)

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


def _digest(numbers: Any, *more: Any) -> str:
    digest = hashlib.sha256(repr(more).encode())
    for path, leaf in jax.tree_util.tree_flatten_with_path(numbers)[0]:
        value = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)}{value.shape}{value.dtype}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()[:16]


# ------------------------------------------------------------------ of all sites at once


class MixtureConditional(dist.Distribution):
    """A site's elements given those of earlier sites, all of them together of a mixture.

    Parameters
    ----------
    mixture : Mixture
        Of the flat unconstrained elements of this site and those before it.
    before : array of shape (start,)
        The elements before it.
    support : Constraint
        Support of the site.
    batch_shape, event_shape, flat_shape : tuple of int
        Shapes of the site, and of its unconstrained values.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    pytree_data_fields = ("mixture", "before", "_support")
    pytree_aux_fields = ("flat_shape",)

    def __init__(
        self,
        mixture: Mixture,
        before: Any,
        support: Any,
        batch_shape: tuple[int, ...],
        event_shape: tuple[int, ...],
        flat_shape: tuple[int, ...],
    ) -> None:
        self.mixture, self.before, self._support = mixture, before, support
        self.flat_shape = flat_shape
        super().__init__(batch_shape, event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        """Support of the site."""
        return self._support

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draws given the elements before."""
        flat = conditional_sample(self.mixture, self.before, key, tuple(sample_shape))
        with jax.numpy_rank_promotion("allow"):
            return biject_to(self._support)(flat.reshape(*sample_shape, *self.flat_shape))

    def log_prob(self, value: Any, intermediates: Any = None) -> Array:
        """Log density on the constrained space, of every element of the batch."""
        bijection = biject_to(self._support)
        ndim = jnp.ndim(value) - len(self.event_shape)
        with jax.numpy_rank_promotion("allow"):
            free = bijection.inv(value)
            lead = jnp.shape(free)[: jnp.ndim(free) - len(self.flat_shape)]
            before = jnp.broadcast_to(self.before, (*lead, self.before.shape[-1]))
            flat = jnp.concatenate([before, free.reshape(*lead, -1)], axis=-1)
            each = element_log_probs(self.mixture, flat)[..., before.shape[-1] :]
            density = each.reshape(jnp.shape(free))
            density = sum_rightmost(density, jnp.ndim(density) - ndim)
            stretch = bijection.log_abs_det_jacobian(free, value)
            return density - sum_rightmost(stretch, jnp.ndim(stretch) - ndim)


@dataclasses.dataclass(frozen=True)
class _JointForm:
    latents: tuple[Latent, ...]

    def handler(self, numbers: Mapping[str, Any]) -> _JointHandler:
        return _JointHandler(self.latents, Mixture(**numbers))


class _JointHandler(Messenger):
    """Gives latent sites, in program order, their conditionals in a mixture of all of them."""

    def __init__(self, latents: tuple[Latent, ...], mixture: Mixture) -> None:
        super().__init__()
        self._left = list(latents)
        self._mixture = mixture
        self._flat: list[Any] = [jnp.zeros(0, jnp.asarray(mixture.means).dtype)]
        self._replaced: Any = None

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(s.name for s in self._left)

    def process_message(self, msg: Any) -> None:
        if not _is_free(msg):
            return
        own, name = msg["fn"], msg["name"]
        latent = self._left.pop(0) if self._left else None
        if latent is None or latent.name != name:
            expected = f"'{latent.name}'" if latent else "no other site"
            raise ModelError(
                f"the prior is of other sites than the program: it has {expected} where the "
                f"program draws '{name}'"
            )
        if tuple(own.shape()) != latent.shape:
            raise ShapeError(
                f"the prior has shape {latent.shape} for '{name}', the program {own.shape()}"
            )
        if isinstance(own, dist.MaskedDistribution) or msg.get("scale") is not None:
            raise UnsupportedModelError(
                f"site '{name}' is masked or scaled, so that its prior is no density; no mixture "
                "can take its place"
            )
        before = jnp.concatenate(self._flat)
        part = head(self._mixture, latent.stop)
        shapes = tuple(own.batch_shape), tuple(own.event_shape), latent.flat_shape
        msg["fn"] = MixtureConditional(part, before, own.support, *shapes)
        self._replaced = name

    def postprocess_message(self, msg: Any) -> None:
        if msg.get("name") != self._replaced or msg["type"] != "sample":
            return
        self._replaced = None
        with jax.numpy_rank_promotion("allow"):
            self._flat.append(jnp.ravel(biject_to(msg["fn"].support).inv(msg["value"])))


@dataclasses.dataclass(frozen=True, eq=False)
class JointPrior(RuntimePrior):
    """A mixture of normals on the flat unconstrained space for the prior of all latent sites.

    Each site in turn has the conditional of its elements given those of the sites before it, so
    that the program's log density is that of the likelihood and the mixture, and its prior draws
    are the mixture's.

    Parameters
    ----------
    latents : tuple of Latent
        The program's latent sites and their places in the flat vector, without reparametrisation.
    mixture_of_all : Mixture
        One mixture of that many elements.

    Raises
    ------
    SettingsError
        A mixture that is not of these elements, or that is not finite.
    """

    latents: tuple[Latent, ...]
    mixture_of_all: Mixture

    def __post_init__(self) -> None:
        given = Mixture(*(np.asarray(v, np.float64) for v in self.mixture_of_all))
        d = self.latents[-1].stop if self.latents else 0
        k = given.log_weights.shape[-1] if given.log_weights.ndim else 0
        if [v.shape for v in given] != [(k,), (k, d), (k, d), (k, d, d)]:
            raise SettingsError(
                f"the prior has means of shape {given.means.shape}; expected (components, {d}): "
                f"{', '.join(s.name for s in self.latents)} have {d} unconstrained elements"
            )
        weights = given.log_weights
        finite = all(np.isfinite(v).all() for v in given[1:]) and not np.isnan(weights).any()
        total = np.logaddexp.reduce(weights)
        if not (finite and abs(total) < 1e-3):
            raise SettingsError(
                "the prior is no mixture: its numbers are not finite, or its weights do not sum "
                f"to one (they sum to {np.exp(total):.6g})"
            )
        object.__setattr__(self, "mixture_of_all", given._replace(log_weights=weights - total))

    def _parts(self) -> tuple[_JointForm, dict[str, Any]]:
        return _JointForm(self.latents), dict(self.mixture_of_all._asdict())

    def _check(self, model: Model, data: Data) -> None:
        if model.reparam is not None and model.reparam != "auto" and model.reparam != {}:
            raise UnsupportedModelError(_REPARAMETRISED.format(model.name, "reparam="))

    def mixture(self, problem: Problem, components: int) -> Mixture:
        """The mixture itself, whatever number of components is asked for."""
        return self.mixture_of_all

    def describe(self) -> dict[str, Any]:
        """JSON values; see :class:`RuntimePrior`."""
        names = [s.name for s in self.latents]
        numbers = dict(self.mixture_of_all._asdict())
        count = self.mixture_of_all.components
        digest = _digest(numbers, names)
        return {"kind": "joint", "sites": names, "components": count, "digest": digest}


_REPARAMETRISED = (
    "{0} is reparametrised ({1}), and a prior of all sites is on the program's own: leave reparam "
    "out, or give distributions by site"
)


# ------------------------------------------------------------------------ from what users hold


def as_runtime_prior(prior: Any, reference: Problem, components: int, seed: int) -> RuntimePrior:
    """A prior from what users hold.

    Parameters
    ----------
    prior : mapping, Mixture, callable, Posterior or RuntimePrior
        Distributions by site; a mixture on the flat unconstrained space; a function from a key to
        values of all latent sites, in JAX; or a posterior of the same model, that becomes the
        prior of what comes next.
    reference : Problem
        The model, bound to data.
    components : int
        Components of a mixture that is fitted to draws.
    seed : int
        Seed of the draws and of the fit.

    Returns
    -------
    RuntimePrior

    Raises
    ------
    SettingsError, ShapeError
        What is missing, outside of its support or not finite, by site.
    UnsupportedModelError
        A prior of all sites for a reparametrised program.
    """
    if isinstance(prior, RuntimePrior):
        return prior
    if isinstance(prior, Mapping):
        found = SitePriors(dict(prior))
        found._check(reference.model, reference.data)
        return found
    is_posterior = hasattr(prior, "draws") and hasattr(prior, "data")
    known = isinstance(prior, Mixture) or is_posterior or callable(prior)
    if isinstance(prior, dist.Distribution) or not known:
        raise SettingsError(
            "a prior is a mapping from site to distribution, a Mixture, a function from a key to "
            f"values of all latent sites or a Posterior; got {type(prior).__name__}"
        )
    _require_plain(reference)
    if isinstance(prior, Mixture):
        return JointPrior(reference.program.latents, prior)
    values = (
        _of_posterior(prior, reference) if is_posterior else _of_sampler(prior, reference, seed)
    )
    positions = _positions(values, reference)
    mixture = fit_mixture(positions, components, np.random.default_rng(seed))
    return JointPrior(reference.program.latents, mixture)


def _require_plain(reference: Problem) -> None:
    name = reference.model.name
    if reference.reparametrised:
        sites = ", ".join(reference.reparametrised)
        raise UnsupportedModelError(_REPARAMETRISED.format(name, sites))
    discrete = reference.discrete + reference.drawn_discrete
    if discrete:
        raise UnsupportedModelError(
            f"{name} has discrete latent sites ({', '.join(discrete)}): a mixture of normals is a "
            "prior of continuous ones only; give distributions by site"
        )


def _of_sampler(prior: Callable, reference: Problem, seed: int) -> dict[str, np.ndarray]:
    with double_precision(), jax.numpy_rank_promotion("allow"):
        keys = jax.random.split(seed_key(seed), _DRAWS)
        try:
            found = jax.jit(jax.vmap(lambda key: dict(prior(key))))(keys)
        except Exception as error:
            raise SettingsError(
                "the prior is called with a key of JAX and gives a dict of values by latent site, "
                f"in JAX; it failed: {type(error).__name__}: {str(error).splitlines()[0]}"
            ) from error
    names = [s.name for s in reference.program.latents]
    unknown = [n for n in found if n not in names]
    if unknown:
        raise SettingsError(
            f"the prior gives '{unknown[0]}', which is no latent site of {reference.model.name} "
            f"({', '.join(names)})"
        )
    missing = [n for n in names if n not in found]
    if missing:
        raise SettingsError(f"the prior gives no value of {', '.join(missing)}")
    return {n: np.asarray(v, np.float64) for n, v in found.items()}


def _of_posterior(posterior: Any, reference: Problem) -> dict[str, np.ndarray]:
    values = {}
    for latent in reference.program.latents:
        try:
            draws = np.asarray(posterior.draws(latent.name), np.float64)
        except KeyError as error:
            raise SettingsError(
                f"the posterior has no draws of '{latent.name}': it is of another model than "
                f"{reference.model.name}"
            ) from error
        values[latent.name] = draws.reshape(-1, *draws.shape[2:])
    count = min(len(v) for v in values.values())
    if count < _LEAST_DRAWS * reference.size:
        raise SettingsError(
            f"the posterior has {count} draws of {reference.size} unknowns; at least "
            f"{_LEAST_DRAWS * reference.size} are needed for a prior"
        )
    kept = np.linspace(0, count - 1, min(count, _MOST_DRAWS)).astype(int)
    return {n: v[kept] for n, v in values.items()}


def _positions(values: Mapping[str, np.ndarray], reference: Problem) -> np.ndarray:
    """Flat unconstrained positions of draws of all latent sites."""
    for latent in reference.program.latents:
        value = values[latent.name]
        if value.shape[1:] != latent.shape:
            raise ShapeError(
                f"the prior has '{latent.name}' of shape {value.shape[1:]}; the program has "
                f"{latent.shape}"
            )
        if not np.isfinite(value).all():
            raise SettingsError(f"the prior has values of '{latent.name}' that are not finite")
    positions = reference.unconstrain(values, lead=1)
    for latent in reference.program.latents:
        bad = ~np.isfinite(positions[:, latent.start : latent.stop]).all(axis=1)
        if bad.any():
            raise SettingsError(
                f"the prior has values of '{latent.name}' outside of its support, or on its edge, "
                f"in {bad.sum()} of {len(bad)} draws"
            )
    return positions
