"""Three tasks of simulation-based inference whose densities are known: programs, data, metric.

Lueckmann, Boelts, Greenberg, Goncalves and Macke (2021), Benchmarking simulation-based inference,
arXiv 2101.04653 (sbibm, MIT licence). A folder of `two_moons.npz`, `slcp.npz` and
`gaussian_linear.npz` gives ten observations each (`obs_1` ...), 10 000 draws of their reference
posteriors (`ref_1` ...) and the parameters that made them (`theta_1` ...).

The metric is the accuracy of a classifier that tells draws of two posteriors apart: 0.5 where they
are the same, 1 where they have nothing in common. It needs scikit-learn, which is no dependency.
"""

from __future__ import annotations

import pathlib
import warnings
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints


class Crescents(dist.Distribution):
    """A point on a half circle of radius N(0.1, 0.01^2), moved by two parameters.

    The density is that of radius and uniform angle over the Jacobian, the radius. A point on the
    far side of the half circle has a negative radius, ten standard deviations away.

    Parameters
    ----------
    theta : array of shape (..., 2)
    """

    arg_constraints: ClassVar = {"theta": constraints.real_vector}
    support = constraints.real_vector
    pytree_data_fields = ("theta",)

    def __init__(self, theta, *, validate_args=None):
        self.theta = theta
        super().__init__(jnp.shape(theta)[:-1], (2,), validate_args=validate_args)

    def _centre(self):
        first, second = self.theta[..., 0], self.theta[..., 1]
        moved = [0.25 - jnp.abs(first + second) / np.sqrt(2), (second - first) / np.sqrt(2)]
        return jnp.stack(moved, axis=-1)

    def sample(self, key, sample_shape=()):
        for_angle, for_radius = jax.random.split(key)
        shape = (*sample_shape, *self.batch_shape)
        angle = jax.random.uniform(for_angle, shape, minval=-np.pi / 2, maxval=np.pi / 2)
        radius = 0.1 + 0.01 * jax.random.normal(for_radius, shape)
        arm = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
        return self._centre() + radius[..., None] * arm

    def log_prob(self, value):
        away = value - self._centre()
        length = jnp.hypot(away[..., 0], away[..., 1])
        radius = jnp.where(away[..., 0] < 0, -length, length)
        return dist.Normal(0.1, 0.01).log_prob(radius) - jnp.log(np.pi * length)


def two_moons(y=None):
    """Two parameters, one observation of shape (2,): two crescents in every posterior."""
    theta = numpyro.sample("theta", dist.Uniform(-1.0, 1.0).expand([2]).to_event(1))
    numpyro.sample("y", Crescents(theta), obs=y)


def slcp(y=None):
    """Five parameters of a normal, four draws of it, (4, 2): a simple likelihood, four modes."""
    theta = numpyro.sample("theta", dist.Uniform(-3.0, 3.0).expand([5]).to_event(1))
    first, second = jnp.square(theta[..., 2]), jnp.square(theta[..., 3])
    cross = jnp.tanh(theta[..., 4]) * first * second
    rows = [[jnp.square(first) + 1e-6, cross], [cross, jnp.square(second) + 1e-6]]
    spread = jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)
    with numpyro.plate("row", 4):
        numpyro.sample("y", dist.MultivariateNormal(theta[..., :2], spread), obs=y)


def gaussian_linear(y=None):
    """Ten locations of variance 0.1, each seen with noise of variance 0.1."""
    scale = np.sqrt(0.1)
    theta = numpyro.sample("theta", dist.Normal(0.0, scale).expand([10]).to_event(1))
    numpyro.sample("y", dist.Normal(theta, scale).to_event(1), obs=y)


class Task(NamedTuple):
    """An observation, 10 000 draws of its posterior (draw, d), and what made it."""

    y: np.ndarray
    reference: np.ndarray
    theta: np.ndarray


PROGRAMS = {"two_moons": two_moons, "slcp": slcp, "gaussian_linear": gaussian_linear}
SHAPES = {"two_moons": (2,), "slcp": (4, 2), "gaussian_linear": (10,)}


def task(folder: pathlib.Path, name: str, observation: int) -> Task:
    """One of ten observations of a task, counted from one."""
    with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
        y, reference, theta = (file[f"{part}_{observation}"] for part in ("obs", "ref", "theta"))
    return Task(y.reshape(SHAPES[name]), reference.astype(float), theta)


def c2st(
    reference: np.ndarray, draws: np.ndarray, seed: int = 1, count: int | None = None
) -> float:
    """Accuracy of a network that tells draws apart, in five-fold cross-validation.

    Two layers of 10 d rectified units on data standardised by the reference, as sbibm has it. It is
    slow: minutes at 10 000 against 10 000.

    Parameters
    ----------
    reference, draws : array of shape (draw, d)
    seed : int
        Of the subsets, the folds and the network.
    count : int, optional
        Draws of each to use; as many as both have by default.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import KFold, cross_val_score
    from sklearn.neural_network import MLPClassifier

    generator = np.random.default_rng(seed)
    count = min(len(reference), len(draws), count or len(reference))
    centre, scale = reference.mean(axis=0), reference.std(axis=0, ddof=1)
    parts = [(generator.permutation(part)[:count] - centre) / scale for part in (reference, draws)]
    d = reference.shape[1]
    network = MLPClassifier((10 * d, 10 * d), max_iter=10_000, random_state=seed)
    folds = KFold(5, shuffle=True, random_state=seed)
    labels = np.repeat([0, 1], count)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        scores = cross_val_score(network, np.concatenate(parts), labels, cv=folds)
    return float(np.mean(scores))
