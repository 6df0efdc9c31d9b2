"""Amortized posteriors held against exact answers: programs, priors, divergences.

The inverse gamma and the mixtures of normals are those of Whittle, Ziomek, Rawling and Osborne
(2025), Distribution Transformers, arXiv 2502.02463, section 4.1 and appendix C.1. Every divergence
is KL(exact || approximation) in nats on the unconstrained space, a figure a data set. A density to
be judged is a function of positions of shape (set, node, d) that gives logs of shape (set, node),
in double precision: `densities` makes one of a batch of mixtures.

amortized_checks.py holds the exact answers against each other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy import special, stats

from bayes.compilation import computing
from bayes.surrogates.mixtures import (
    Mixture,
    covariances,
    log_prob,
    mixture_of_covariances,
    sample,
)

LogDensity = Callable[[np.ndarray], np.ndarray]
ROWS = 10


def densities(mixtures: Mixture) -> LogDensity:
    """Log densities of a batch of mixtures, each at positions of its own."""
    parts = [np.asarray(part, float)[:, None] for part in mixtures]

    def of_positions(x: np.ndarray) -> np.ndarray:
        with computing():
            return np.asarray(log_prob(Mixture(*parts), jnp.asarray(x)))

    return of_positions


def mixtures_of(log_weights: np.ndarray, means: np.ndarray, spread: np.ndarray) -> Mixture:
    """A batch of mixtures of covariance matrices; the weights need not be normalised."""
    d = means.shape[-1]
    flat = np.ones(means[..., 0].size), means.reshape(-1, d), spread.reshape(-1, d, d)
    found = mixture_of_covariances(*flat)
    log_weights = log_weights - special.logsumexp(log_weights, axis=-1, keepdims=True)
    shapes = means.shape, means.shape, spread.shape
    return Mixture(log_weights, *(p.reshape(s) for p, s in zip(found[1:], shapes, strict=True)))


# A variance under its conjugate prior -----------------------------------------------------------


def inverse_gamma(shape, rate, y=None, rows=ROWS):
    """Variance of zero-mean normals; ten of them unless the data say otherwise."""
    variance = numpyro.sample("variance", dist.InverseGamma(shape, rate))
    with numpyro.plate("row", rows if y is None else y.shape[0]):
        numpyro.sample("y", dist.Normal(0.0, jnp.sqrt(variance)), obs=y)


def inverse_gamma_design(key: jax.Array) -> dict[str, jax.Array]:
    """The paper's wide meta-prior: shape and rate are InverseGamma(4, 6) each.

    A gamma variable of integer shape is a sum of exponential ones, which are cheap to draw.
    """
    waits = jax.random.exponential(key, (2, 4)).sum(axis=-1)
    return {"shape": 6.0 / waits[0], "rate": 6.0 / waits[1]}


def inverse_gamma_sets(count: int, seed: int, rows: int = ROWS) -> dict[str, np.ndarray]:
    """Data sets from the meta-prior: `shape`, `rate`, true `variance` (set), `y` (set, row)."""
    generator = np.random.default_rng(seed)
    shape, rate = 6.0 / generator.gamma(4.0, size=(2, count))
    variance = rate / generator.gamma(shape)
    y = generator.normal(size=(count, rows)) * np.sqrt(variance)[:, None]
    return {"shape": shape, "rate": rate, "variance": variance, "y": y}


def inverse_gamma_kl(
    shape: np.ndarray, rate: np.ndarray, y: np.ndarray, log_q: LogDensity, nodes: int = 200
) -> np.ndarray:
    """Divergence of densities of the log variance, by quadrature but for 2e-12 of the mass."""
    a, b = shape + 0.5 * y.shape[-1], rate + 0.5 * np.square(y).sum(axis=-1)
    low, high = (
        np.log(b / special.gammainccinv(a, 1e-12)),
        np.log(b / special.gammaincinv(a, 1e-12)),
    )
    at, weights = np.polynomial.legendre.leggauss(nodes)
    half = 0.5 * (high - low)[:, None]
    u = 0.5 * (high + low)[:, None] + half * at
    a, b = a[:, None], b[:, None]
    log_p = a * np.log(b) - special.gammaln(a) - a * u - b * np.exp(-u)
    return np.sum(half * weights * np.exp(log_p) * (log_p - log_q(u[..., None])), axis=-1)


# A location under a mixture of normals ----------------------------------------------------------


def location(d, y=None):
    """A point in d dimensions, seen once with unit noise; its prior is to be swapped."""
    x = numpyro.sample("x", dist.Normal(0.0, 1.0).expand([d]).to_event(1))
    numpyro.sample("y", dist.Normal(x, 1.0).to_event(1), obs=y)


def meta_prior(key: jax.Array, components: int, d: int) -> Mixture:
    """Means N(0, I), covariances inverse Wishart, weights uniform on the simplex.

    Precisions are Wishart of d + 1 degrees of freedom and scale I / 2, so that every element's
    variance is InverseGamma(1, 1) in any dimension. They are drawn in triangular form, M' M with M
    lower triangular (Bartlett's decomposition from the last element on): no inverse, no factor of a
    matrix, so that single precision suffices.
    """
    for_weights, for_means, for_squares, for_below = jax.random.split(key, 4)
    waits = jax.random.exponential(for_weights, (components,))
    normals = jax.random.normal(for_squares, (components, d, d + 1))
    counted = np.arange(d + 1) <= 1 + np.arange(d)[:, None]
    diagonal = jnp.sqrt(0.5 * jnp.where(counted, jnp.square(normals), 0.0).sum(axis=-1))
    below = jnp.tril(jax.random.normal(for_below, (components, d, d)), -1) * np.sqrt(0.5)
    return Mixture(
        jnp.log(waits / waits.sum()),
        jax.random.normal(for_means, (components, d)),
        -jnp.log(diagonal),
        below / diagonal[..., None],
    )


def meta_priors(count: int, components: int, d: int, seed: int) -> Mixture:
    """A batch of them in double precision."""
    with computing():
        keys = jax.random.split(jax.random.key(seed), count)
        drawn = jax.vmap(lambda key: meta_prior(key, components, d))(keys)
        return Mixture(*(np.asarray(part, float) for part in drawn))


def exact_posterior(mixture: Mixture, y: np.ndarray, noise: float = 1.0) -> Mixture:
    """The posterior of a location under a mixture, or a batch: a mixture again.

    Parameters
    ----------
    mixture : Mixture
        Prior.
    y : array of shape (..., d)
        What is seen: the location with normal noise.
    noise : float
        Standard deviation of the noise.
    """
    means, prior = np.asarray(mixture.means, float), covariances(mixture)
    seen = prior + noise**2 * np.eye(mixture.size)
    away = y[..., None, :] - means
    gain = np.linalg.solve(seen, prior)  # symmetric matrices that commute: no transpose
    solved = np.linalg.solve(seen, away[..., None])[..., 0]
    evidence = -0.5 * np.sum(away * solved, axis=-1) - 0.5 * np.linalg.slogdet(seen)[1]
    moved = means + np.einsum("...ij,...j->...i", gain, away)
    return mixtures_of(np.asarray(mixture.log_weights, float) + evidence, moved, noise**2 * gain)


def mixture_kl(exact: Mixture, log_q: LogDensity, draws: int = 2000, seed: int = 0) -> np.ndarray:
    """Divergence of densities from a batch of mixtures, by Monte Carlo.

    The standard error of a figure K is near sqrt(2 K / draws) where K is small.
    """
    parts, p = [], densities(exact)
    for key in jax.random.split(jax.random.key(seed), -(-draws // 100)):  # to spare memory
        with computing():
            x = np.swapaxes(np.asarray(sample(exact, key, 100)), 0, 1)
        parts.append(np.mean(p(x) - log_q(x), axis=-1))
    return np.mean(parts, axis=0)


# Priors of other kinds ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Kind:
    """A prior of independent elements that no mixture is.

    Parameters
    ----------
    law : frozen scipy distribution
        Of every element.
    draw : callable
        Draws of a key and a shape, in JAX.
    breaks : tuple of float
        Where within its support the density is not smooth.
    """

    law: stats.rv_continuous
    draw: Callable[[jax.Array, tuple[int, ...]], jax.Array]
    breaks: tuple[float, ...] = ()

    def sampler(self, d: int) -> Callable[[jax.Array], dict[str, jax.Array]]:
        """Values of the sites of `location` of a key."""
        return lambda key: {"x": self.draw(key, (d,))}


KINDS = {
    "uniform": Kind(stats.uniform(-2, 4), lambda k, s: 4 * jax.random.uniform(k, s) - 2),
    "student_t": Kind(stats.t(3), lambda k, s: jax.random.t(k, 3.0, s)),
    "laplace": Kind(stats.laplace(), lambda k, s: jax.random.laplace(k, s), (0.0,)),
    "exponential": Kind(stats.expon(-1), lambda k, s: jax.random.exponential(k, s) - 1.0),
}


def kind_sets(kind: Kind, count: int, d: int, seed: int) -> np.ndarray:
    """Observations of shape (set, d) from a prior of that kind, with unit noise."""
    generator = np.random.default_rng(seed)
    x = kind.law.rvs(size=(count, d), random_state=generator)
    return x + generator.normal(size=x.shape)


def _posterior_nodes(kind: Kind, y: np.ndarray, nodes: int) -> tuple[np.ndarray, ...]:
    """Of one element's posterior: nodes, log densities there, weights of quadrature."""
    at, weights = np.polynomial.legendre.leggauss(nodes)
    edges = [y - 7.0, *(b + 0.0 * y for b in kind.breaks), y + 7.0]  # the likelihood is narrower
    edges = np.clip(np.stack(edges, axis=-1), edges[0][..., None], edges[-1][..., None])
    edges = np.clip(edges, *kind.law.support())
    half = 0.5 * np.diff(edges, axis=-1)[..., None]
    x = (edges[..., :-1, None] + half * (1.0 + at)).reshape(*y.shape, -1)
    weight = (half * weights).reshape(*y.shape, -1)
    log_p = kind.law.logpdf(x) - 0.5 * np.square(x - y[..., None])
    return x, log_p - special.logsumexp(log_p, b=weight, axis=-1, keepdims=True), weight


def kind_kl(kind: Kind, y: np.ndarray, log_q: LogDensity, nodes: int = 48) -> np.ndarray:
    """Divergence of densities from the posteriors of such a prior, by quadrature in d = 1 or 2.

    The exact posterior is a product; what is judged need not be.
    """
    x, log_p, weight = _posterior_nodes(kind, y, nodes)
    d = y.shape[1]
    grids = np.indices((x.shape[-1],) * d).reshape(d, -1)
    positions = np.stack([x[:, i, grid] for i, grid in enumerate(grids)], axis=-1)
    joint = sum(log_p[:, i, grid] for i, grid in enumerate(grids))
    mass = np.exp(joint) * np.prod([weight[:, i, grid] for i, grid in enumerate(grids)], axis=0)
    return np.sum(mass * (joint - log_q(positions)), axis=-1)


# Filtering of a linear-Gaussian series -----------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Linear:
    """x' = matrix x + noise of that covariance, and the first element seen with normal noise.

    The default moves on a line at nearly constant velocity, 50 steps of 0.2 units of time; the
    process noise is that of white accelerations of intensity 0.01.
    """

    matrix: np.ndarray = dataclasses.field(default_factory=lambda: np.array([[1, 0.2], [0, 1.0]]))
    process: np.ndarray = dataclasses.field(
        default_factory=lambda: 0.01 * np.array([[0.2**3 / 3, 0.2**2 / 2], [0.2**2 / 2, 0.2]])
    )
    noise: float = 0.5
    start: tuple[float, float] = (1.0, 0.3)  # standard deviations of the first state, about zero

    def simulate(self, series: int, steps: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """States of shape (step, series, 2) and what is seen of them, of shape (step, series)."""
        generator = np.random.default_rng(seed)
        factor = np.linalg.cholesky(self.process)
        states = [generator.normal(size=(series, 2)) * self.start]
        for _ in range(steps - 1):
            noise = generator.normal(size=(series, 2)) @ factor.T
            states.append(states[-1] @ self.matrix.T + noise)
        found = np.stack(states)
        return found, found[..., 0] + self.noise * generator.normal(size=found.shape[:2])

    def kalman(self, y: np.ndarray) -> Mixture:
        """Exact posteriors of all states given what is seen so far: normals, (step, series)."""
        mean, spread = np.zeros((y.shape[1], 2)), np.diag(np.square(self.start))
        means, spreads = [], []
        for seen in y:
            gain = spread[:, 0] / (spread[0, 0] + self.noise**2)
            mean = mean + (seen - mean[:, 0])[:, None] * gain
            spread = spread - np.outer(gain, spread[0])
            means.append(mean[:, None])
            spreads.append(np.broadcast_to(spread, (y.shape[1], 1, 2, 2)))
            mean, spread = mean @ self.matrix.T, self.matrix @ spread @ self.matrix.T + self.process
        return mixtures_of(np.zeros((*y.shape, 1)), np.stack(means), np.stack(spreads))


def moving(loc, scale, y=None, noise=0.5):
    """One update of that filter: a state under a normal prior, which is to be swapped."""
    state = numpyro.sample("state", dist.Normal(loc, scale).to_event(1))
    numpyro.sample("y", dist.Normal(state[..., 0], noise), obs=y)


def pushed(mixture: Mixture, matrix: np.ndarray, process: np.ndarray) -> Mixture:
    """The mixture, or a batch, of matrix x plus normal noise of covariance `process`."""
    means = np.asarray(mixture.means, float) @ matrix.T
    spread = matrix @ covariances(mixture) @ matrix.T + process
    return mixtures_of(np.asarray(mixture.log_weights, float), means, spread)
