"""Range and bearing of a moving target: one update as a program, and filters to hold it against.

The problem is that of Whittle, Ziomek, Rawling and Osborne (2025), Distribution Transformers, arXiv
2502.02463, section 4.3.1, with the constants of the authors' published configuration. The state is
(x, x velocity, y, y velocity). Velocities forget themselves by a factor exp(-1) a step, positions
move on; one noise variable an axis drives both. Two sensors at the origin give, at each of 100
steps,

- the range r, with a standard deviation of 0.1 (r + 1), of which 20 % are interruptions instead,
  exponential of rate 1, and 10 % failures, uniform on (0, 10);
- the bearing, the angle from the y axis, with a standard deviation of 0.1 on the circle.

The authors clip ranges to (0, 10) when they simulate and not when they score; here none is, so that
simulator and density agree. `GAUSSIAN` are the same sensors without interruptions and failures.
Filters are judged by the negative log density of the true state.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.nn import logsumexp
from numpyro.distributions import constraints

from bayes.compilation import computing

MATRIX = np.kron(np.eye(2), [[1.0, 1 - np.exp(-1)], [0.0, np.exp(-1)]])
FACTOR = np.kron(np.eye(2), [[0.1], [0.2]])  # state noise = FACTOR @ two standard normals
START = np.array([1.0, 0.0, 1.0, 0.0])  # mean of the first state, whose covariance is I
STEPS, SERIES = 100, 100
_LOG_TAU = np.log(2 * np.pi)


@dataclasses.dataclass(frozen=True)
class Sensors:
    """Constants of the sensors, and the density of what they give."""

    right: float = 0.7
    interrupted: float = 0.2
    failed: float = 0.1
    rate: float = 1.0
    longest: float = 10.0
    distance: float = 0.1
    angle: float = 0.1

    def log_prob(self, state: jax.Array, y: jax.Array) -> jax.Array:
        """Log density of y of shape (..., 2) given states of shape (..., 4)."""
        r = jnp.hypot(state[..., 0], state[..., 2])
        seen, sd = y[..., 0], self.distance * (1.0 + r)
        score = -0.5 * jnp.square((seen - r) / sd) - jnp.log(sd) - 0.5 * _LOG_TAU
        inside = jnp.where(seen < self.longest, self.failed / self.longest, 0.0)
        broken = self.interrupted * self.rate * jnp.exp(-self.rate * jnp.abs(seen)) + inside
        of_range = jnp.log(self.right * jnp.exp(score) + jnp.where(seen > 0, broken, 0.0))
        of_range = score if self.right == 1.0 else of_range
        off = wrapped(y[..., 1] - jnp.arctan2(state[..., 0], state[..., 2])) / self.angle
        return of_range - 0.5 * jnp.square(off) - np.log(self.angle) - 0.5 * _LOG_TAU

    def sample(self, key: jax.Array, state: jax.Array) -> jax.Array:
        """What the sensors give, of shape (..., 2)."""
        keys = jax.random.split(key, 5)
        r, shape = jnp.hypot(state[..., 0], state[..., 2]), state.shape[:-1]
        right = r + self.distance * (1.0 + r) * jax.random.normal(keys[0], shape)
        wait = jax.random.exponential(keys[1], shape) / self.rate
        failed = self.longest * jax.random.uniform(keys[2], shape)
        which = jax.random.uniform(keys[3], shape)
        broken = jnp.where(which < self.right + self.interrupted, wait, failed)
        angle = jnp.arctan2(state[..., 0], state[..., 2])
        angle = wrapped(angle + self.angle * jax.random.normal(keys[4], shape))
        return jnp.stack([jnp.where(which < self.right, right, broken), angle], axis=-1)


GAUSSIAN = Sensors(right=1.0, interrupted=0.0, failed=0.0)


def wrapped(angle: jax.Array) -> jax.Array:
    """The same angle in [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


class RangeBearing(dist.Distribution):
    """What the sensors give of a state: range and bearing."""

    arg_constraints: ClassVar = {"state": constraints.real_vector}
    support = constraints.real_vector
    pytree_data_fields = ("state",)
    pytree_aux_fields = ("sensors",)

    def __init__(self, state, sensors=Sensors(), *, validate_args=None):
        self.state, self.sensors = state, sensors
        super().__init__(jnp.shape(state)[:-1], (2,), validate_args=validate_args)

    def sample(self, key, sample_shape=()):
        return self.sensors.sample(
            key, jnp.broadcast_to(self.state, (*sample_shape, *self.state.shape))
        )

    def log_prob(self, value):
        return self.sensors.log_prob(self.state, value)


def program(sensors):
    """A state under a normal prior, which is to be swapped, and what the sensors give of it."""

    def update(loc, scale, y=None):
        state = numpyro.sample("state", dist.Normal(loc, scale).to_event(1))
        numpyro.sample("y", RangeBearing(state, sensors), obs=y)

    return update


update, update_gaussian = program(Sensors()), program(GAUSSIAN)


def simulate(sensors: Any, seed: int, series=SERIES, steps=STEPS) -> tuple[np.ndarray, np.ndarray]:
    """States of shape (step, series, 4) and what is seen of them, of shape (step, series, 2)."""
    generator = np.random.default_rng(seed)
    states = [START + generator.normal(size=(series, 4))]
    for _ in range(steps - 1):
        states.append(states[-1] @ MATRIX.T + generator.normal(size=(series, 2)) @ FACTOR.T)
    found = np.stack(states)
    with computing():
        return found, np.asarray(sensors.sample(jax.random.key(seed), jnp.asarray(found)))


# Particles ---------------------------------------------------------------------------------------

_TWO_STEPS = np.concatenate([MATRIX @ FACTOR, FACTOR], axis=1)  # of both noises, to a state


class Filtered(NamedTuple):
    """What a particle filter finds, each of shape (step, series) but the mean.

    Parameters
    ----------
    log_density : array
        Of the true state given what is seen so far. Particles two steps back are moved to the true
        state by the one pair of noises that leads there, and weighted by the density of these and
        of what was seen on the way: an average over particles that no kernel blurs.
    effective : array
        Effective number of terms of that average; its logarithm is off by about half its inverse.
    kernel : array
        Log density as the paper scores it: normal kernels on the particles, of 1.06 n^-0.2 times
        (their covariance + 0.001 I).
    evidence : array
        Log density of what is seen given what was seen before.
    mean : array of shape (step, series, 4)
    """

    log_density: np.ndarray
    effective: np.ndarray
    kernel: np.ndarray
    evidence: np.ndarray
    mean: np.ndarray


def _resampled(key: jax.Array, log_weights: jax.Array, particles: jax.Array) -> jax.Array:
    """Systematic resampling of one series."""
    n = log_weights.shape[0]
    share = jnp.cumsum(jax.nn.softmax(log_weights))
    below = jnp.floor(n * share / share[-1] + jax.random.uniform(key))
    counts = jnp.diff(jnp.clip(below, 0, n), prepend=0.0).astype(int)
    return particles[jnp.repeat(jnp.arange(n), counts, total_repeat_length=n)]


def _standard(noise: jax.Array) -> jax.Array:
    return -0.5 * jnp.square(noise).sum(-1) - 0.5 * noise.shape[-1] * _LOG_TAU


def _kernel(particles: jax.Array, truth: jax.Array) -> jax.Array:
    n = particles.shape[0]
    spread = 1.06 * n**-0.2 * (jnp.cov(particles.T) + 0.001 * jnp.eye(4))
    factor = jnp.linalg.cholesky(spread)
    z = jax.scipy.linalg.solve_triangular(factor, (truth - particles).T, lower=True).T
    return logsumexp(_standard(z)) - jnp.log(n) - jnp.log(jnp.diag(factor)).sum()


@functools.partial(jax.jit, static_argnums=0)
def _step(sensors: Any, key, particles, y, truth):
    """Weigh, score and resample particles before an update, (series, n, 4)."""
    log_weights = sensors.log_prob(particles, y[:, None])
    evidence = logsumexp(log_weights, axis=1) - np.log(particles.shape[1])
    keys = jax.random.split(key, len(particles))
    kept = jax.vmap(_resampled)(keys, log_weights, particles)
    mean = jnp.einsum("sn,snd->sd", jax.nn.softmax(log_weights, axis=1), particles)
    return kept, evidence, mean, jax.vmap(_kernel)(kept, truth)


@jax.jit
def _moved(key, particles):
    noise = jax.random.normal(key, (*particles.shape[:2], 2))
    return particles @ MATRIX.T + noise @ FACTOR.T


@functools.partial(jax.jit, static_argnums=0)
def _terms(sensors: Any, particles, seen, truth):
    """Log terms whose mean is p(truth, seen on the way | particles two steps back)."""
    away = truth[:, None] - particles @ (MATRIX @ MATRIX).T
    noise = away @ np.linalg.inv(_TWO_STEPS).T
    between = particles @ MATRIX.T + noise[..., :2] @ FACTOR.T
    volume = np.linalg.slogdet(_TWO_STEPS)[1]
    return _standard(noise) - volume + sensors.log_prob(between, seen[:, None])


@functools.partial(jax.jit, static_argnums=(0, 2))
def _second_terms(sensors: Any, key, n: int, seen, truth):
    """The same at the second step, whose first state has a density: over noises, backwards."""
    noise = jax.random.normal(key, (len(truth), n, 2))
    first = (truth[:, None] - noise @ FACTOR.T) @ np.linalg.inv(MATRIX).T
    volume = np.linalg.slogdet(MATRIX)[1]
    return _standard(first - START) - volume + sensors.log_prob(first, seen[:, None])


def particle_filter(
    sensors: Any, y: np.ndarray, states: np.ndarray, particles: int = 10_000, seed: int = 0
) -> Filtered:
    """Bootstrap filter of all series at once: move, weigh, resample systematically at every step.

    Gordon, Salmond and Smith (1993), Novel approach to nonlinear/non-Gaussian Bayesian state
    estimation, IEE Proceedings F 140.

    Parameters
    ----------
    sensors : object with `log_prob` and `sample` as `Sensors` has them
    y : array of shape (step, series, 2)
    states : array of shape (step, series, 4)
        The truth, at which densities are evaluated; it steers nothing.
    """
    out, clouds, evidence = [], [], []
    with computing():
        y, states, key = jnp.asarray(y), jnp.asarray(states), jax.random.key(seed)
        key, first = jax.random.split(key)
        cloud = START + jax.random.normal(first, (y.shape[1], particles, 4))
        for t, (seen, truth) in enumerate(zip(y, states, strict=True)):
            key, resampling, moving, second = jax.random.split(key, 4)
            cloud, total, mean, kernel = _step(sensors, resampling, cloud, seen, truth)
            evidence.append(total)
            if t == 0:
                terms = jnp.broadcast_to(_standard(truth - START)[:, None], cloud.shape[:2])
            elif t == 1:
                terms = _second_terms(sensors, second, particles, y[0], truth)
            else:
                terms = _terms(sensors, clouds[-2], y[t - 1], truth)
            average = logsumexp(terms, axis=1) - np.log(particles)
            effective = jnp.exp(2 * logsumexp(terms, axis=1) - logsumexp(2 * terms, axis=1))
            density = average + sensors.log_prob(truth, seen) - sum(evidence[-2:])
            out.append((density, effective, kernel, total, mean))
            clouds = [*clouds[-1:], cloud]
            cloud = _moved(moving, cloud)
        return Filtered(*(np.stack([np.asarray(row[i]) for row in out]) for i in range(5)))


# Linearised --------------------------------------------------------------------------------------


def extended_kalman(sensors: Sensors, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means (step, series, 4) and covariances: sensors by their mean and variance, linearised."""
    count = y.shape[1]
    mean, spread = np.tile(START, (count, 1)), np.tile(np.eye(4), (count, 1, 1))
    shares = np.array([sensors.right, sensors.interrupted, sensors.failed])
    wait, middle = 1 / sensors.rate, sensors.longest / 2
    means, spreads = [], []
    for seen in y:
        r = np.hypot(mean[:, 0], mean[:, 2])
        parts = np.stack([r, wait + 0 * r, middle + 0 * r], axis=1)
        own = np.stack(
            [(sensors.distance * (1 + r)) ** 2, wait**2 + 0 * r, middle**2 / 3 + 0 * r], 1
        )
        expected = parts @ shares
        noise = np.zeros((count, 2, 2))
        noise[:, 0, 0] = (own + (parts - expected[:, None]) ** 2) @ shares
        noise[:, 1, 1] = sensors.angle**2
        slope = np.zeros((count, 2, 4))
        slope[:, 0, ::2] = sensors.right * mean[:, ::2] / r[:, None]
        slope[:, 1, 0], slope[:, 1, 2] = mean[:, 2] / r**2, -mean[:, 0] / r**2
        angle = np.arctan2(mean[:, 0], mean[:, 2])
        off = np.stack([seen[:, 0] - expected, wrapped(seen[:, 1] - angle)], axis=1)
        back = spread @ slope.swapaxes(1, 2)
        gain = np.linalg.solve(slope @ back + noise, back.swapaxes(1, 2)).swapaxes(1, 2)
        mean = mean + (gain @ off[..., None])[..., 0]
        kept = np.eye(4) - gain @ slope
        spread = kept @ spread @ kept.swapaxes(1, 2) + gain @ noise @ gain.swapaxes(1, 2)
        means.append(mean)
        spreads.append(spread)
        mean = mean @ MATRIX.T
        spread = MATRIX @ spread @ MATRIX.T + FACTOR @ FACTOR.T
    return np.stack(means), np.stack(spreads)


def normal_scores(means: np.ndarray, spreads: np.ndarray, states: np.ndarray) -> np.ndarray:
    """Log densities of states under normals."""
    away = states - means
    squares = np.einsum("...i,...i->...", away, np.linalg.solve(spreads, away[..., None])[..., 0])
    return -0.5 * (squares + np.linalg.slogdet(spreads)[1] + states.shape[-1] * _LOG_TAU)
