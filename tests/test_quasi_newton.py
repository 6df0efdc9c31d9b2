"""Normals along a path beside dense BFGS, and bounds on the evidence that are known exactly."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayes
from bayes.compilation import computing
from bayes.inference.climbing import Path, climb, history
from bayes.inference.densities import gradients_at
from bayes.inference.quasi_newton import best_normal, elbos, normals_along
from bayes.normals import Normal, covariance, independent, normal_of_precision

REAL = dist.constraints.real_vector


def gaussian(mean, precision):
    x = numpyro.sample("x", dist.ImproperUniform(REAL, (), mean.shape))
    numpyro.factor("normal", -0.5 * (x - mean) @ precision @ (x - mean))


def half(edge):
    x = numpyro.sample("x", dist.ImproperUniform(REAL, (), (2,)))
    numpyro.factor("half", jnp.where(x[0] > edge, -0.5 * jnp.square(x).sum(), -jnp.inf))


def upward(rate):
    x = numpyro.sample("x", dist.ImproperUniform(REAL, (), (2,)))
    numpyro.factor("up", jnp.exp(rate * x).sum())


@pytest.fixture(autouse=True)
def _computing():
    with computing():
        yield


def target(d, rng, condition=100.0):
    basis, _ = np.linalg.qr(rng.normal(size=(d, d)))
    precision = (basis * np.geomspace(1.0, condition, d)) @ basis.T
    return rng.normal(size=d), 0.5 * (precision + precision.T)


def bind(mean, precision):
    return bayes.Model(gaussian).bind({"mean": mean, "precision": precision})


def log_evidence(precision):
    return 0.5 * (len(precision) * np.log(2.0 * np.pi) - np.linalg.slogdet(precision)[1])


def path_through(positions, mean, precision, diagonals):
    """A path over points of a Gaussian target."""
    centred = positions - mean
    gradients = -centred @ precision
    densities = 0.5 * (centred * gradients).sum(axis=1)
    return Path(positions, densities, gradients, diagonals, False, len(positions))


def conjugate_path(mean, precision, start, diagonal):
    """Exact searches along conjugate directions: the steps that BFGS would take itself."""
    x, gradient = start, -precision @ (start - mean)
    direction, points = diagonal * gradient, [start]
    for _ in range(len(mean)):
        slope = gradient @ direction
        x = x + slope / (direction @ precision @ direction) * direction
        new = -precision @ (x - mean)
        turn = (new * diagonal) @ (new - gradient) / (gradient @ (diagonal * gradient))
        direction, gradient = diagonal * new + turn * direction, new
        points.append(x)
    positions = np.array(points)
    return path_through(positions, mean, precision, np.tile(diagonal, (len(points), 1)))


def dense_bfgs(path, point):
    """Inverse Hessian by the plain recursion (Nocedal and Wright, equation 6.17)."""
    steps, changes = np.diff(path.positions, axis=0), -np.diff(path.gradients, axis=0)
    pairs = [
        (s, y)
        for s, y in zip(steps[:point], changes[:point], strict=True)
        if s @ y > 1e-12 * np.linalg.norm(s) * np.linalg.norm(y)
    ]
    inverse = np.diag(path.diagonals[point])
    for s, y in pairs[-history(path.positions.shape[1]) :]:
        rho = 1.0 / (s @ y)
        left = np.eye(len(s)) - rho * np.outer(s, y)
        inverse = left @ inverse @ left.T + rho * np.outer(s, s)
    return inverse


def one_of(normals, i):
    return Normal(*(part[i] for part in normals))


def assert_covariances_equal(normals, path, points, tolerance):
    for i, point in enumerate(points):
        expected = dense_bfgs(path, point)
        sd = np.sqrt(np.diagonal(expected))
        found = covariance(one_of(normals, i)) / np.outer(sd, sd)
        difference = found - expected / np.outer(sd, sd)
        np.testing.assert_allclose(difference, 0.0, atol=tolerance, err_msg=str(point))


@pytest.mark.parametrize("d", [2, 5, 12, 30])
def test_the_covariance_is_that_of_dense_bfgs(d, rng):
    """Of the same pairs and diagonal, to 1e-8, wherever on a path, in few and many dimensions."""
    mean, precision = target(d, rng)
    positions = mean + rng.normal(size=(26, d))
    diagonals = np.exp(rng.uniform(-1, 1, (26, d)))
    path = path_through(positions, mean, precision, diagonals)
    points = np.arange(1, 26)
    assert_covariances_equal(normals_along(path, points), path, points, 1e-8)


@pytest.mark.parametrize("d", [2, 5, 30])
def test_so_it_is_along_a_path_that_was_climbed(d, rng):
    mean, precision = target(d, rng)
    problem = bind(mean, precision)
    start = 2.0 * rng.normal(size=(1, d))
    (path,) = climb(problem, start, *gradients_at(problem, start))
    # Towards the end differences of gradients are rounding errors, to both alike but not the same.
    far = np.square(path.positions - mean).sum(axis=1) > 1e-8
    points = np.flatnonzero(far)[1:]
    assert len(points) > 3
    assert_covariances_equal(normals_along(path, points), path, points, 1e-6)


def test_pairs_without_curvature_are_left_out(rng):
    """Of a target that is convex in parts, and a step that was none."""
    d = 4
    positions, gradients = rng.normal(size=(2, 20, d))
    positions[7], gradients[7] = positions[6], gradients[6]
    diagonals = np.exp(rng.uniform(-1, 1, (20, d)))
    path = Path(positions, np.zeros(20), gradients, diagonals, False, 20)
    curvatures = (np.diff(positions, axis=0) * -np.diff(gradients, axis=0)).sum(axis=1)
    assert 3 < (curvatures > 0).sum() < 16
    points = np.array([1, 6, 7, 8, 19])
    assert_covariances_equal(normals_along(path, points), path, points, 1e-6)


def test_without_any_pair_it_is_the_diagonal():
    positions, gradients = np.eye(3), np.eye(3)  # convex: gradients rise with the positions
    path = Path(positions, np.zeros(3), gradients, np.full((3, 3), 4.0), False, 3)
    normals = normals_along(path, np.array([1, 2]))
    for i in (0, 1):
        np.testing.assert_allclose(covariance(one_of(normals, i)), 4.0 * np.eye(3), atol=1e-12)
        np.testing.assert_allclose(normals.mean[i], positions[i + 1] + 4.0 * gradients[i + 1])


@pytest.mark.parametrize("d", [1, 2, 5, history(1)])
def test_a_gaussian_is_known_after_as_many_steps_as_it_has_dimensions(d, rng):
    """By exact searches, from any diagonal: covariance and mean to 1e-8 standard deviations."""
    mean, precision = target(d, rng, 10.0)
    diagonal = np.exp(rng.uniform(-1, 1, d))
    path = conjugate_path(mean, precision, mean + rng.normal(size=d), diagonal)
    normal = one_of(normals_along(path, np.array([d])), 0)
    sigma = np.linalg.inv(precision)
    sd = np.sqrt(np.diagonal(sigma))
    difference = (covariance(normal) - sigma) / np.outer(sd, sd)
    np.testing.assert_allclose(difference, 0.0, atol=1e-8)
    np.testing.assert_allclose((normal.mean - mean) / sd, 0.0, atol=1e-8)


def test_the_mean_is_newtons_step(rng):
    mean, precision = target(6, rng)
    positions = mean + rng.normal(size=(9, 6))
    path = path_through(positions, mean, precision, np.ones((9, 6)))
    points = np.array([2, 5, 8])
    normals = normals_along(path, points)
    for i, point in enumerate(points):
        step = dense_bfgs(path, point) @ path.gradients[point]
        np.testing.assert_allclose(normals.mean[i], positions[point] + step, rtol=1e-8, atol=1e-8)


def test_columns_are_orthonormal(rng):
    for d in (3, 30):
        mean, precision = target(d, rng)
        positions = mean + rng.normal(size=(15, d))
        path = path_through(positions, mean, precision, np.ones((15, d)))
        vectors = normals_along(path, np.arange(1, 15)).vectors
        product = np.swapaxes(vectors, 1, 2) @ vectors
        identity = np.broadcast_to(np.eye(vectors.shape[2]), product.shape)
        np.testing.assert_allclose(product, identity, atol=1e-10)


class TestBounds:
    @pytest.mark.parametrize("d", [1, 5, 40])
    def test_the_right_normal_has_the_evidence_without_error(self, d, rng):
        """Whatever the draws: log p - log q is constant."""
        mean, precision = target(d, rng)
        normal = normal_of_precision(mean, precision)
        stacked = Normal(*(part[None] for part in normal))
        problem = bind(mean, precision)
        for k in (1, 3, 10):
            found = elbos(problem, stacked, rng.normal(size=(k, d)))
            np.testing.assert_allclose(found, log_evidence(precision), rtol=1e-10, atol=1e-10)

    def test_a_wrong_normal_has_less_by_the_divergence(self, rng):
        """KL of normals in closed form, within 5 Monte Carlo errors."""
        d = 3
        mean, precision = target(d, rng)
        q = independent(mean + 0.3, np.full(d, 0.5))
        z = rng.normal(size=(20_000, d))
        found = elbos(bind(mean, precision), Normal(*(part[None] for part in q)), z)[0]
        spread = 0.25 * np.trace(precision) - d - d * np.log(0.25)
        spread -= np.linalg.slogdet(precision)[1]
        divergence = 0.5 * (spread + 0.09 * precision.sum())
        x = q.mean + 0.5 * z - mean
        values = -0.5 * ((x @ precision) * x).sum(axis=1) + 0.5 * np.square(z).sum(axis=1)
        error = values.std() / np.sqrt(len(z))
        assert abs(found - (log_evidence(precision) - divergence)) < 5.0 * error

    def test_several_normals_have_each_their_own(self, rng):
        mean, precision = target(3, rng)
        problem, z = bind(mean, precision), rng.normal(size=(7, 3))
        q = independent(mean + rng.normal(size=(4, 3)), np.exp(rng.normal(size=(4, 3))))
        together = elbos(problem, q, z)
        alone = [elbos(problem, Normal(*(p[i : i + 1] for p in q)), z)[0] for i in range(4)]
        np.testing.assert_allclose(together, alone, rtol=1e-12)

    def test_a_draw_without_density_makes_it_minus_infinity(self, rng):
        problem = bayes.Model(half).bind({"edge": np.asarray(0.0)})
        q = independent(np.array([[0.0, 0.0], [20.0, 0.0]]), np.ones((2, 2)))
        found = elbos(problem, q, rng.normal(size=(50, 2)))
        assert np.isneginf(found[0])
        assert np.isfinite(found[1])

    @pytest.mark.parametrize(
        ("mean", "scale"), [(np.nan, 1.0), (np.inf, 1.0), (0.0, np.inf), (1.0, 1e-12)]
    )
    def test_a_normal_that_cannot_be_told_has_none(self, mean, scale, rng):
        """Not finite, or so narrow that rounding moves its draws; the one beside it has one."""
        target_mean, precision = target(2, rng)
        q = independent(np.array([[mean, 0.0], [0.0, 0.0]]), np.array([[scale, 1.0], [1.0, 1.0]]))
        with np.errstate(invalid="ignore"):
            found = elbos(bind(target_mean, precision), q, rng.normal(size=(5, 2)))
        assert np.isneginf(found[0])
        assert np.isfinite(found[1])


class TestBestNormal:
    def climbed(self, problem, d, rng):
        start = 3.0 * rng.normal(size=(1, d))
        return climb(problem, start, *gradients_at(problem, start))[0]

    def test_it_is_the_one_with_the_highest_bound(self, rng):
        mean, precision = target(5, rng)
        problem, z = bind(mean, precision), rng.normal(size=(10, 5))
        path = self.climbed(problem, 5, rng)
        normals = normals_along(path, np.arange(1, len(path.positions)))
        bounds = elbos(problem, normals, z)
        normal, bound = best_normal(problem, path, z)
        assert bound == pytest.approx(bounds.max(), rel=1e-12)
        np.testing.assert_allclose(normal.mean, normals.mean[np.argmax(bounds)], rtol=1e-12)

    def test_on_a_gaussian_it_comes_near_the_evidence(self, rng):
        """In five dimensions, in which the history spans the space: to .05 nats."""
        mean, precision = target(5, rng)
        problem = bind(mean, precision)
        path = self.climbed(problem, 5, rng)
        _, bound = best_normal(problem, path, rng.normal(size=(100, 5)))
        assert bound == pytest.approx(log_evidence(precision), abs=0.05)

    def test_it_can_look_at_fewer_points(self, rng):
        mean, precision = target(5, rng)
        problem, z = bind(mean, precision), rng.normal(size=(10, 5))
        path = self.climbed(problem, 5, rng)
        last = len(path.positions) - 1
        _, all_of_them = best_normal(problem, path, z)
        _, few = best_normal(problem, path, z, 3)
        _, too_many = best_normal(problem, path, z, 10 * last)
        assert too_many == all_of_them
        assert few <= all_of_them
        some = np.unique(np.linspace(1, last, 3).round().astype(int))
        expected = elbos(problem, normals_along(path, some), z).max()
        assert few == pytest.approx(expected, rel=1e-12)

    def test_a_path_of_one_point_has_none(self):
        problem = bind(np.arange(3.0), np.eye(3))
        one = path_through(np.ones((1, 3)), np.arange(3.0), np.eye(3), np.ones((1, 3)))
        normal, bound = best_normal(problem, one, np.ones((2, 3)))
        assert np.isneginf(bound)
        np.testing.assert_array_equal(normal.mean, 1.0)

    def test_a_path_up_to_infinity_has_none_that_holds(self, rng):
        """Draws about its points have densities beyond all numbers, or none is curved."""
        problem = bayes.Model(upward).bind({"rate": np.asarray(1.0)})
        start = np.ones((1, 2))
        (path,) = climb(problem, start, *gradients_at(problem, start))
        assert not path.converged
        normal, _ = best_normal(problem, path, rng.normal(size=(10, 2)))
        assert np.isfinite(normal.mean).all()
