"""Posteriors of shards of the data: whether they can be merged, and the density that is theirs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from bayes.errors import DataError, ModelError, UnsupportedModelError
from bayes.fingerprint import data_fingerprint
from bayes.inference.densities import densities_at, hessian_products
from bayes.posterior import Posterior
from bayes.prior_curvature import likelihood_sites, log_prior_at, prior_curvature
from bayes.problem import Problem
from bayes.structure import Site, trace_program

__all__ = ["Shards"]

_PROBES = 3
_SAME = 1e-6
"""Relative difference up to which log densities are the same."""


@dataclasses.dataclass(frozen=True)
class Shards:
    """Problems of the same program on shards of the data, and what they share.

    Parameters
    ----------
    problems : tuple of Problem
    methods, failed : tuple of str
        How each was fitted, and which of its checks failed.
    likelihood : frozenset of str
        Observed sites and factors that differ between shards; the others are part of the prior.
    common : tuple of str
        Sites whose values follow from a position alike in all shards.
    notes : tuple of str
    """

    problems: tuple[Problem, ...]
    methods: tuple[str, ...]
    failed: tuple[str, ...]
    likelihood: frozenset[str]
    common: tuple[str, ...]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, posteriors: Sequence[Posterior]) -> Shards:
        """Check that posteriors can be merged."""
        for i, posterior in enumerate(posteriors):
            if not posterior.has_model:
                raise ModelError(
                    f"posterior {i} has no model, with which its log density is computed: "
                    "bayes.load(path, model=...) gives it"
                )
        problems = tuple(p.problem for p in posteriors)
        for i, problem in enumerate(problems):
            if problem.drawn_discrete:
                raise UnsupportedModelError(
                    f"posterior {i} has draws of discrete sites "
                    f"({', '.join(problem.drawn_discrete)}), which normals cannot stand for; a "
                    "method that sums them out fits, such as method='nuts'"
                )
            _require_same_program(problems[0], problem, f"posterior {i}")
        _require_different_data(problems)
        notes = _row_notes(problems[0])
        repeated = _repeated_terms(problems)
        if repeated:
            notes.append(
                f"{', '.join(repeated)} is the same in every shard, and counted once, as part of "
                "the prior"
            )
        likelihood = likelihood_sites(problems[0]) - set(repeated)
        for i, problem in enumerate(problems):
            _require_same_prior(problems[0], problem, likelihood, f"posterior {i}")
        failed = tuple(
            ", ".join(c.name for c in p.diagnostics.failed) if not p.diagnostics.ok else ""
            for p in posteriors
        )
        notes += [f"posterior {i} failed its own checks: {f}" for i, f in enumerate(failed) if f]
        methods = tuple(p.method.name for p in posteriors)
        return cls(problems, methods, failed, likelihood, _common_sites(problems), tuple(notes))

    @property
    def count(self) -> int:
        """Number of shards."""
        return len(self.problems)

    @property
    def first(self) -> Problem:
        """The first shard's problem."""
        return self.problems[0]

    @property
    def size(self) -> int:
        """Number of dimensions."""
        return self.first.size

    @property
    def coordinates(self) -> list[str]:
        """Names of the elements of a position."""
        return self.first.program.coordinates

    def log_density(self, positions: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """Log density of the posterior of all data: the prior is in each of the shards'."""
        shards = sum(densities_at(problem, positions) for problem in self.problems)
        return shards - (self.count - 1) * log_prior_at(self.first, positions, self.likelihood)

    def curvature(self, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gradient and Hessian of the log density of all data."""
        d = self.size
        everywhere, units = np.tile(position, (d, 1)), np.eye(d)
        gradient, hessian = prior_curvature(self.first, position, self.likelihood)
        gradient, hessian = (-(self.count - 1) * v for v in (gradient, hessian))
        for problem in self.problems:
            gradient = gradient + np.asarray(problem.value_and_grad(position)[1])
            hessian = hessian + hessian_products(problem, everywhere, units)
        return gradient, 0.5 * (hessian + hessian.T)

    def bind(self, data: Any) -> Problem:
        """The model bound to all data."""
        first = self.first
        whole = first.model.bind(data, marginal=first.marginal)
        _require_same_program(first, whole, "the model with data=")
        points = _probes(self.size)
        apart, together = self.log_density(points), densities_at(whole, points)
        if not _same(apart, together):
            raise DataError(
                "data is not what the shards make up together, or observations of different "
                f"shards depend on each other: the log density at a point is {together[0]:.6g} by "
                f"data and {apart[0]:.6g} by the shards"
            )
        return whole


def _require_same_program(first: Problem, other: Problem, who: str) -> None:
    """Refuse another program, and latent sites that are not the same ones."""
    a, b = first.sites, other.sites
    if set(a) != set(b):
        names = ", ".join(sorted(set(a) ^ set(b)))
        raise ModelError(f"{who} is of another program than posterior 0: they differ in {names}")
    for name in a:
        if a[name].kind == "latent" and a[name].shape != b[name].shape:
            raise UnsupportedModelError(
                f"latent site '{name}' has shape {a[name].shape} in posterior 0 and "
                f"{b[name].shape} in {who}: its elements belong to a shard, and only what all "
                "shards share can be merged; cut the data so that each shard has all of them, or "
                "give the number of elements as an argument of its own"
            )
        old, new = _description(a[name]), _description(b[name])
        if old != new:
            raise ModelError(
                f"{who} is of another program than posterior 0: site '{name}' is {new} there, and "
                f"{old} in posterior 0"
            )
    if first.program.latents != other.program.latents:
        raise ModelError(f"{who} is reparametrised otherwise than posterior 0")
    for column, levels in first.data.levels.items():
        if not np.array_equal(levels, other.data.levels.get(column, levels)):
            raise DataError(
                f"column '{column}' has other levels in {who} than in posterior 0, so that codes "
                "mean other things; give every shard the same categories (pandas.Categorical)"
            )
    for name in (s.name for s in a.values() if s.kind == "latent"):
        for dim in first.dims.get(name, ()):
            x, y = first.coords.get(dim), other.coords.get(dim)
            if x is not None and y is not None and not np.array_equal(x, y):
                raise UnsupportedModelError(
                    f"latent site '{name}' has other labels of '{dim}' in {who} than in posterior "
                    "0: its elements belong to a shard, and only what all shards share can be "
                    "merged"
                )


def _description(site: Site) -> str:
    distribution = f" {site.distribution}" if site.distribution else ""
    return f"{site.kind}{distribution}"


def _require_different_data(problems: Sequence[Problem]) -> None:
    seen: dict[str, int] = {}
    for i, problem in enumerate(problems):
        earlier = seen.setdefault(data_fingerprint(problem.data.arguments), i)
        if earlier != i:
            raise DataError(
                f"posteriors {earlier} and {i} are of the same data, which would be counted twice"
            )


def _row_notes(problem: Problem) -> list[str]:
    """Sites with an element a row: without labels, rows of shards may be other things."""
    observed = {p[0] for s in problem.sites.values() if s.kind == "observed" for p in s.plates}
    return [
        f"site '{site.name}' has an element for each of plate '{plate}', in which there are "
        "observations: they are taken for the same elements in every shard"
        for site in problem.sites.values()
        if site.kind == "latent"
        for plate, _, size in site.plates
        if plate in observed and np.array_equal(problem.coords.get(plate, ()), np.arange(size))
    ]


def _probes(d: int) -> Float[np.ndarray, "n d"]:
    """Points at which shards are compared."""
    return 0.5 * np.random.default_rng(20240229).normal(size=(_PROBES, d))


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and np.allclose(a, b, rtol=_SAME, atol=_SAME, equal_nan=True)


def _repeated_terms(problems: Sequence[Problem]) -> list[str]:
    """Factors and observed sites that are the same in all shards, such as a constraint's."""
    traces = [trace_program(p.model.fn, p.data, 0) for p in problems]
    candidates = []
    for name in sorted(likelihood_sites(problems[0])):
        values = [np.asarray(t[name]["value"]) for t in traces]
        if all(np.array_equal(values[0], v) for v in values[1:]):
            candidates.append(name)
    if not candidates or problems[0].discrete:
        return []
    found = [[p.log_likelihood(x) for x in _probes(p.size)] for p in problems]
    terms = {n: np.array([[at[n] for at in shard] for shard in found]) for n in candidates}
    return [n for n, v in terms.items() if _same(v, np.broadcast_to(v[0], v.shape))]


def _require_same_prior(first: Problem, other: Problem, likelihood: frozenset, who: str) -> None:
    points = _probes(first.size)
    a, b = first.constrain(points), other.constrain(points)
    for site in first.program.latents:
        if not _same(a[site.name], b[site.name]):
            raise ModelError(
                f"the support of site '{site.name}' is another one in {who} than in posterior 0: "
                "it follows from the shard's data; give what it follows from as an argument that "
                "is the same for all shards"
            )
    old, new = (log_prior_at(p, points, likelihood) for p in (first, other))
    if _same(old, new):
        return
    where = ""
    if not first.discrete:
        old_parts, new_parts = first.log_prior(points[0]), other.log_prior(points[0])
        sites = [n for n in old_parts if not np.isclose(old_parts[n], new_parts[n], rtol=_SAME)]
        where = f" of {', '.join(sites)}" if sites else ""
    raise ModelError(
        f"the prior{where} is another one in {who} than in posterior 0 (log density {new[0]:.6g} "
        f"and {old[0]:.6g} at the same point), so that it cannot be counted once: give what it "
        "follows from as an argument that is the same for all shards"
    )


def _common_sites(problems: Sequence[Problem]) -> tuple[str, ...]:
    found = [problem.constrain(_probes(problem.size)) for problem in problems]
    names = [n for n in found[0] if all(n in f and _same(found[0][n], f[n]) for f in found[1:])]
    return tuple(names)
