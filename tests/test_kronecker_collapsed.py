"""Coefficients integrated out of a Kronecker-structured program, and their exact draws."""

import functools

import arviz_stats
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.stats import multivariate_normal

import bayes
from bayes.compilation import computing
from bayes.distributions import (
    ComplexKroneckerLinear,
    ComplexKroneckerNormal,
    KroneckerLinear,
    KroneckerNormal,
    as_pairs,
)
from bayes.errors import ModelError, ShapeError, UnsupportedModelError
from bayes.inference.kronecker import conditional
from bayes.inference.kronecker.collapsed import (
    Collapsed,
    collapsed_model,
    require_collapsible,
    variances_at,
)
from bayes.inference.kronecker.collapsed_evidence import log_evidence_of, observe_data
from bayes.inference.kronecker.conditional import conditional_draws, matheron_draws
from bayes.inference.kronecker.evidence import (
    decompose,
    noise_statistics,
    observe,
    posterior_mean,
    precisions,
    slice_statistics,
)

SHAPES = {
    "one": [(4, 6)],
    "one tall": [(6, 4)],
    "wide": [(3, 4), (2, 5)],
    "tall and wide": [(5, 3), (2, 4)],
    "all tall": [(4, 3), (3, 2)],
    "three": [(2, 3), (4, 2), (2, 2)],
}
CASES = [(name, is_complex) for name in SHAPES for is_complex in (False, True)]
every_case = pytest.mark.parametrize(("name", "is_complex"), CASES)


def normals(rng, shape, is_complex):
    """Standard normals; of complex ones each part has half of the variance."""
    if not is_complex:
        return rng.normal(size=shape)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)) * np.sqrt(0.5)


def setup(rng, name, is_complex, snapshots=2):
    """Factors, observations, factors of the prior variances, variance of the noise."""
    factors = [normals(rng, shape, is_complex) for shape in SHAPES[name]]
    relevances = [rng.uniform(0.2, 2.0, shape[1]) for shape in SHAPES[name]]
    y = normals(rng, (snapshots, *(shape[0] for shape in SHAPES[name])), is_complex)
    return factors, y, relevances, 0.3


def dense(factors, relevances, variance):
    """The dictionary, the prior variances and the covariance of a snapshot, element by element."""
    h = functools.reduce(np.kron, factors)
    g = functools.reduce(np.kron, relevances)
    return h, g, (h * g) @ h.conj().T + variance * np.eye(len(h))


def in_parts(vector, covariance):
    """A circular complex normal as a real one of both parts."""
    re, im = covariance.real / 2, covariance.imag / 2
    return np.concatenate([vector.real, vector.imag]), np.block([[re, -im], [im, re]])


def dense_evidence(factors, y, relevances, variance):
    """By SciPy."""
    _, _, covariance = dense(factors, relevances, variance)
    total = 0.0
    for row in y.reshape(len(y), -1):
        row, root = in_parts(row, covariance) if np.iscomplexobj(row) else (row, covariance)
        total += multivariate_normal(np.zeros(len(row)), root).logpdf(row)
    return total


def cholesky_evidence(factors, y, relevances, variance):
    """By a large Cholesky factor in JAX, whose derivatives are JAX's own."""
    h = functools.reduce(jnp.kron, factors)
    g = functools.reduce(jnp.kron, relevances)
    root = jnp.linalg.cholesky((h * g[None]) @ h.conj().T + variance * jnp.eye(len(h)))
    rows = y.reshape(len(y), -1)
    white = jax.scipy.linalg.solve_triangular(root, rows.T, lower=True)
    logs = jnp.sum(jnp.log(jnp.diagonal(root).real)) * len(y)
    square = jnp.sum(jnp.abs(white) ** 2)
    if jnp.iscomplexobj(y):
        return -2 * logs - square - y.size * np.log(np.pi)
    return -logs - 0.5 * square - 0.5 * y.size * np.log(2 * np.pi)


def of_observations(observations, relevances, variance):
    return log_evidence_of(*observations, relevances, variance)


class TestEvidence:
    @every_case
    def test_beside_scipy_and_a_cholesky_factor(self, name, is_complex, rng):
        """The density, and its gradient in the variances, in factors and in observations."""
        factors, y, relevances, variance = setup(rng, name, is_complex)

        def ours(factors, y, relevances, variance):
            return of_observations(observe_data(factors, y), relevances, variance)

        with computing():
            args = jax.tree.map(jnp.asarray, (factors, y, relevances, variance))
            value, found = jax.jit(jax.value_and_grad(ours, (0, 1, 2, 3)))(*args)
            expected = jax.jit(jax.grad(cholesky_evidence, (0, 1, 2, 3)))(*args)
        assert value.dtype == np.float64
        by_scipy = dense_evidence(factors, y, relevances, variance)
        assert float(value) == pytest.approx(by_scipy, rel=1e-11, abs=1e-9)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9)

    @pytest.mark.parametrize("name", ["all tall", "wide"])
    def test_reduced_with_numpy(self, name, rng):
        factors, y, relevances, variance = setup(rng, name, True)
        with computing():
            found = jax.jit(of_observations)(observe(factors, y), relevances, variance)
        expected = dense_evidence(factors, y, relevances, variance)
        assert float(found) == pytest.approx(expected, rel=1e-11)

    @pytest.mark.parametrize("is_complex", [False, True])
    def test_gradient_is_what_the_updates_have(self, is_complex, rng):
        """Pull less push, halved where real; finite differences say so, too."""
        factors, y, relevances, variance = setup(rng, "three", is_complex)
        observations = observe(factors, y)
        spectrum = decompose(observations, relevances)
        precision = precisions(spectrum, variance)
        pairs = [slice_statistics(spectrum, axis, precision) for axis in range(3)]
        pairs.append(noise_statistics(spectrum, variance, precision))
        with computing():
            run = jax.jit(jax.grad(lambda p: of_observations(observations, p[:-1], p[-1])))
            found = run([*relevances, variance])
        scale = 1.0 if is_complex else 0.5
        for gradient, (pull, push) in zip(found, pairs, strict=True):
            np.testing.assert_allclose(gradient, scale * (pull - push), rtol=1e-9)
        step = 1e-5
        for axis, relevance in enumerate(relevances):
            for place in range(len(relevance)):
                ends = []
                for sign in (1, -1):
                    moved = [g.copy() for g in relevances]
                    moved[axis][place] += sign * step
                    ends.append(dense_evidence(factors, y, moved, variance))
                slope = (ends[0] - ends[1]) / (2 * step)
                assert found[axis][place] == pytest.approx(slope, rel=1e-5, abs=1e-5)

    def test_equal_eigenvalues(self, rng):
        """Orthogonal factors and equal variances: every vector is an eigenvector."""
        factors = [
            np.linalg.qr(rng.normal(size=(4, 4)))[0],
            np.linalg.qr(rng.normal(size=(3, 3)))[0],
        ]
        y, ones = rng.normal(size=(1, 4, 3)), [np.ones(4), np.ones(3)]
        with computing():
            args = [jnp.asarray(g) for g in ones], jnp.asarray(0.5)
            ours = jax.grad(lambda g, v: of_observations(observe(factors, y), g, v), (0, 1))
            dense_ones = jax.grad(lambda g, v: cholesky_evidence(factors, y, g, v), (0, 1))
            found, expected = jax.jit(ours)(*args), jax.jit(dense_ones)(*args)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize("small", [1e-30, 1e-200, 0.0])
    def test_tiny_variances(self, small, rng):
        """As without these columns; all of them tiny, only noise is left."""
        factors, y, relevances, variance = setup(rng, "wide", False)
        run = jax.jit(jax.value_and_grad(lambda g, f: of_observations((f, y, 0, 0.0), g, variance)))
        some = [relevances[0] * np.array([1, 0, 1, 1]), relevances[1]]
        mixed = [np.where(g == 0, small, g) for g in some]
        with computing():
            value, gradient = run(mixed, factors)
            kept, left = run(
                [mixed[0][[0, 2, 3]], mixed[1]], [factors[0][:, [0, 2, 3]], factors[1]]
            )
            alone, slopes = run([np.full(4, small), np.full(5, small)], factors)
        assert float(value) == pytest.approx(float(kept), rel=1e-12)
        np.testing.assert_allclose(gradient[0][jnp.array([0, 2, 3])], left[0], rtol=1e-10)
        np.testing.assert_allclose(gradient[1], left[1], rtol=1e-10)
        assert np.isfinite(gradient[0]).all()
        noise = -0.5 * (np.sum(y**2) / variance + y.size * np.log(2 * np.pi * variance))
        assert float(alone) == pytest.approx(noise, rel=1e-12)
        assert all(np.isfinite(s).all() for s in slopes)

    def test_many_at_once(self, rng):
        factors, y, relevances, _ = setup(rng, "tall and wide", True)
        observations = observe(factors, y)
        many = [g * rng.uniform(0.5, 2.0, (7, 1)) for g in relevances]
        variances = rng.uniform(0.1, 1.0, 7)
        run = jax.value_and_grad(lambda g, v: of_observations(observations, g, v), (0, 1))
        with computing():
            values, (by_g, by_v) = jax.jit(jax.vmap(run))(many, variances)
            alone = jax.jit(run)
            for s in range(7):
                value, (one_g, one_v) = alone([g[s] for g in many], variances[s])
                assert float(values[s]) == pytest.approx(float(value), rel=1e-12)
                assert float(by_v[s]) == pytest.approx(float(one_v), rel=1e-9)
                for a, b in zip(by_g, one_g, strict=True):
                    np.testing.assert_allclose(a[s], b, rtol=1e-9)


# -------------------------------------------------------------------- the program


def sparse(factors, y=None):
    scales = [
        numpyro.sample(f"gamma_{i}", dist.Gamma(2.0, 2.0).expand([h.shape[1]]).to_event(1))
        for i, h in enumerate(factors)
    ]
    noise = numpyro.sample("noise", dist.HalfNormal(1.0))
    x = numpyro.sample("x", KroneckerNormal(scales))
    numpyro.deterministic("power", (x**2).sum())
    numpyro.sample("y", KroneckerLinear(factors, x, noise), obs=y)


def in_plates(factors, y=None):
    scales = [
        numpyro.sample(f"gamma_{i}", dist.Gamma(2.0, 2.0).expand([h.shape[1]]).to_event(1))
        for i, h in enumerate(factors)
    ]
    noise = numpyro.sample("noise", dist.HalfNormal(1.0))
    count, modes = (1, 1) if y is None else y.shape[:2], len(factors)
    with numpyro.plate("time", count[0], dim=-2), numpyro.plate("place", count[1], dim=-1):
        x = numpyro.sample("x", ComplexKroneckerNormal(scales, [None] * (modes - 1) + [np.eye(4)]))
        pairs = None if y is None else as_pairs(y)
        numpyro.sample("y", ComplexKroneckerLinear(factors, x, noise), obs=pairs)


def simulated(rng, shapes=((3, 4), (4, 3)), snapshots=(), is_complex=False):
    factors = [normals(rng, shape, is_complex) for shape in shapes]
    h = functools.reduce(np.kron, factors)
    scale = functools.reduce(np.kron, [rng.gamma(2.0, 0.5, shape[1]) for shape in shapes])
    x = normals(rng, (*snapshots, h.shape[1]), is_complex) * np.sqrt(scale)
    y = x @ h.T + 0.5 * normals(rng, (*snapshots, h.shape[0]), is_complex)
    return {"factors": factors, "y": y.reshape(*snapshots, *(shape[0] for shape in shapes))}


def priors(values):
    logs = [dist.Gamma(2.0, 2.0).log_prob(values[f"gamma_{i}"]).sum() for i in range(2)]
    return float(sum(logs) + dist.HalfNormal(1.0).log_prob(values["noise"]))


class TestProgram:
    def check_density(self, problem, data, y):
        """At a few points: the priors and the evidence, and nothing else."""
        rng = np.random.default_rng(3)
        positions = rng.normal(size=(5, problem.size))
        values = problem.constrain(positions)
        parts = problem.site_log_probs(values, lead=1)
        relevances, variances = variances_at(problem, values)
        for s in range(5):
            one = {name: value[s] for name, value in values.items()}
            found = sum(float(p[s].sum()) for p in parts.values())
            with computing():
                prior = priors(one)
            g = [one["gamma_0"], one["gamma_1"]]
            expected = prior + dense_evidence(data["factors"], y, g, one["noise"] ** 2)
            assert found == pytest.approx(expected, rel=1e-10)
            for a, b in zip(relevances, g, strict=True):
                np.testing.assert_allclose(a[s], b, rtol=1e-12)
            assert variances[s] == pytest.approx(one["noise"] ** 2, rel=1e-12)

    def test_only_hyperparameters_are_left(self, rng):
        data = simulated(rng)
        problem = collapsed_model(bayes.Model(sparse), "x", "y").bind(data)
        assert {n: s.kind for n, s in problem.sites.items()} == {
            "gamma_0": "latent",
            "gamma_1": "latent",
            "noise": "latent",
            "y": "factor",
        }
        assert problem.size == 4 + 3 + 1
        self.check_density(problem, data, data["y"][None])

    def test_snapshots_in_plates_and_complex_numbers(self, rng):
        data = simulated(rng, ((5, 3), (3, 4)), (2, 3), is_complex=True)
        problem = collapsed_model(bayes.Model(in_plates), "x", "y").bind(data)
        assert {n for n, s in problem.sites.items() if s.kind == "latent"} == {
            "gamma_0",
            "gamma_1",
            "noise",
        }
        self.check_density(problem, data, data["y"].reshape(6, 5, 3))

    def test_the_gradient_is_of_the_density(self, rng):
        problem = collapsed_model(bayes.Model(sparse), "x", "y").bind(simulated(rng))
        place = 0.3 * rng.normal(size=problem.size)
        _, gradient = problem.value_and_grad(place)
        for i, step in enumerate(1e-5 * np.eye(problem.size)):
            rise = problem.log_density(place + step) - problem.log_density(place - step)
            assert gradient[i] == pytest.approx(float(rise) / 2e-5, rel=1e-6, abs=1e-6)

    def test_the_same_program_is_compiled_once(self, rng):
        assert Collapsed(sparse, "x", "y") == Collapsed(sparse, "x", "y")
        assert hash(Collapsed(sparse, "x", "y")) == hash(Collapsed(sparse, "x", "y"))
        assert Collapsed(sparse, "x", "y") != Collapsed(sparse, "x", "z")
        data = simulated(rng)
        model = bayes.Model(sparse)
        first, second = (collapsed_model(model, "x", "y").bind(data) for _ in range(2))
        assert first.program is second.program
        assert first.program is not model.bind(data).program

    def test_names_and_reparametrisations_of_coefficients_do_not_matter(self, rng):
        model = bayes.Model(
            sparse,
            dims={"x": ["row", "column"]},
            coords={"row": list("abcd")},
            reparam={"x": numpyro.infer.reparam.LocScaleReparam(0)},
        )
        problem = collapsed_model(model, "x", "y").bind(simulated(rng))
        assert problem.size == 8
        assert model.dims == {"x": ["row", "column"]}


def refused(program, data, match, error=ModelError, x="x"):
    with pytest.raises(error, match=match):
        require_collapsible(bayes.Model(program).bind(data), x, "y")


class TestRefusals:
    def test_what_can_be_collapsed_is_not_refused(self, rng):
        require_collapsible(bayes.Model(sparse).bind(simulated(rng)), "x", "y")
        data = simulated(rng, ((5, 3), (3, 4)), (2, 3), is_complex=True)
        require_collapsible(bayes.Model(in_plates).bind(data), "x", "y")

    def test_another_site_that_needs_the_coefficients(self, rng):
        def program(factors, z, y=None):
            scales = [
                jnp.ones(4),
                numpyro.sample("g", dist.Gamma(2.0, 2.0).expand([3]).to_event(1)),
            ]
            x = numpyro.sample("x", KroneckerNormal(scales))
            numpyro.sample("y", KroneckerLinear(factors, x, 1.0), obs=y)
            numpyro.sample("z", dist.Normal(x.sum(), 1.0), obs=z)

        data = {**simulated(rng), "z": 1.0}
        refused(program, data, "site 'z' depends on the coefficients 'x'", UnsupportedModelError)

    def test_a_dictionary_that_is_not_known(self, rng):
        def program(factors, y=None):
            angle = numpyro.sample("angle", dist.Normal(0.0, 1.0))
            x = numpyro.sample("x", KroneckerNormal([jnp.ones(4), jnp.ones(3)]))
            turned = [jnp.asarray(factors[0]) * jnp.cos(angle), factors[1]]
            numpyro.sample("y", KroneckerLinear(turned, x, 1.0), obs=y)

        refused(program, simulated(rng), "depend on latent sites .angle.", UnsupportedModelError)

    def make(self, *, coef=lambda x: x, mask=None, noise=1.0, plates=(None, None), wrap=None):
        def program(factors, y=None):
            g = numpyro.sample("g", dist.Gamma(2.0, 2.0).expand([3]).to_event(1))
            in_x, in_y = (
                numpyro.plate("snapshot", 2) if p else numpyro.plate("one", 1) for p in plates
            )
            with in_x:
                x = numpyro.sample("x", KroneckerNormal([jnp.ones(4), g]))
            with in_y:
                fn = KroneckerLinear(factors, coef(x), noise, mask)
                numpyro.sample("y", fn if wrap is None else wrap(fn), obs=y)

        return program

    @pytest.mark.parametrize(
        ("changes", "match"),
        [
            ({"coef": lambda x: 2 * x}, "does not have site 'x' itself"),
            ({"mask": np.ones((3, 4), bool)}, "has a mask"),
            ({"noise": np.array([1.0, 2.0]), "plates": (True, True)}, "noise differ among"),
            ({"plates": (False, True)}, "put both in the same plate"),
            ({"wrap": lambda fn: fn.mask(np.array([True, False]))}, "site 'y' is masked"),
            (
                {"wrap": lambda fn: dist.Normal(fn.coef.sum(), 1.0).expand([3, 4]).to_event(2)},
                "is a Normal",
            ),
        ],
    )
    def test_likelihoods(self, changes, match, rng):
        changes = {"plates": (True, True), **changes}
        data = simulated(rng, snapshots=(2,))
        refused(self.make(**changes), data, match, UnsupportedModelError)

    def test_variances_of_their_own_for_each_snapshot(self, rng):
        def program(factors, y=None):
            with numpyro.plate("snapshot", 2):
                g = numpyro.sample("g", dist.Gamma(2.0, 2.0).expand([3]).to_event(1))
                x = numpyro.sample("x", KroneckerNormal([jnp.ones(4), g]))
                numpyro.sample("y", KroneckerLinear(factors, x, 1.0), obs=y)

        data = simulated(rng, snapshots=(2,))
        refused(program, data, "variances differ among snapshots", UnsupportedModelError)

    def test_a_scaled_density(self, rng):
        def program(factors, y=None):
            g = numpyro.sample("g", dist.Gamma(2.0, 2.0).expand([3]).to_event(1))
            x = numpyro.sample("x", KroneckerNormal([jnp.ones(4), g]))
            with numpyro.handlers.scale(scale=0.5):
                numpyro.sample("y", KroneckerLinear(factors, x, 1.0), obs=y)

        refused(program, simulated(rng), "'y' is scaled", UnsupportedModelError)

    def test_sites_that_are_not_there(self, rng):
        data = simulated(rng)
        refused(sparse, data, "no site 'z' before 'y'", x="z")
        with pytest.raises(ModelError, match="'y' is not observed"):
            collapsed_model(bayes.Model(sparse), "x", "y").bind({"factors": data["factors"]})


# ------------------------------------------------------------------------- draws


def dense_posterior(factors, y, relevances, variance):
    """Means of the snapshots and their common covariance."""
    h, g, covariance = dense(factors, relevances, variance)
    gain = (g[:, None] * h.conj().T) @ np.linalg.inv(covariance)
    return y.reshape(len(y), -1) @ gain.T, np.diag(g) - gain @ (h * g)


def check_moments(draws, mean, covariance):
    """Means and covariances of the draws beside the true ones, each by its Monte Carlo error.

    Below 5 sd, for fewer than 900 numbers: a false alarm in 2000 runs.
    """
    count = len(draws)
    centred = draws.reshape(count, *mean.shape) - mean
    sd = np.sqrt(np.diagonal(covariance).real)
    root = np.sqrt(count)
    assert np.max(np.abs(centred.mean(axis=0)) / sd) * root < 5
    for row in range(len(mean)):
        part = centred[:, row]
        found = part.T @ part.conj() / count
        # Var of a product of two jointly normal numbers is at most twice that of independent ones.
        assert np.max(np.abs(found - covariance) / np.outer(sd, sd)) * root < 5 * np.sqrt(2)
        if np.iscomplexobj(draws):  # circular: without it, parts would have other variances
            assert np.max(np.abs(part.T @ part) / count / np.outer(sd, sd)) * root < 5 * np.sqrt(2)
    cross = centred[:, 0].T @ centred[:, 1].conj() / count
    assert np.max(np.abs(cross) / np.outer(sd, sd)) * root < 5


class Zeros(np.random.Generator):
    """Normals that are all zero."""

    def standard_normal(self, size):
        return np.zeros(size)


class TestDraws:
    count = 8000

    @pytest.mark.parametrize("is_complex", [False, True])
    @pytest.mark.parametrize("name", ["one tall", "wide", "tall and wide", "three"])
    def test_moments_at_variances_of_their_own(self, name, is_complex, rng):
        """The draws share their variances, but every one has its own decomposition."""
        factors, y, relevances, variance = setup(rng, name, is_complex)
        draws = conditional_draws(
            observe(factors, y),
            [np.repeat(g[None], self.count, axis=0) for g in relevances],
            np.full(self.count, variance),
            rng,
        )
        assert draws.dtype == (complex if is_complex else float)
        assert draws.shape == (self.count, 2, *(shape[1] for shape in SHAPES[name]))
        check_moments(draws, *dense_posterior(factors, y, relevances, variance))

    @pytest.mark.parametrize("is_complex", [False, True])
    @pytest.mark.parametrize("name", ["one", "all tall", "three"])
    def test_moments_at_one_set_of_variances(self, name, is_complex, rng):
        factors, y, relevances, variance = setup(rng, name, is_complex)
        spectrum = decompose(observe(factors, y), relevances)
        draws = matheron_draws(spectrum, variance, rng, self.count)
        check_moments(draws, *dense_posterior(factors, y, relevances, variance))

    @pytest.mark.parametrize("is_complex", [False, True])
    def test_each_draw_has_its_own_variances(self, is_complex, rng):
        """Where all normals are zero, a draw is the posterior mean at its variances."""
        factors, y, _, _ = setup(rng, "tall and wide", is_complex)
        relevances = [rng.uniform(0.5, 2.0, (6, 3)), rng.uniform(0.5, 2.0, (6, 4))]
        variances = rng.uniform(0.1, 1.0, 6)
        observations = observe(factors, y)
        draws = conditional_draws(observations, relevances, variances, Zeros(np.random.PCG64(0)))
        for s in range(6):
            spectrum = decompose(observations, [g[s] for g in relevances])
            mean = posterior_mean(spectrum, variances[s])
            np.testing.assert_allclose(draws[s], mean, rtol=1e-9, atol=1e-12)
            again = matheron_draws(spectrum, variances[s], Zeros(np.random.PCG64(0)), 2)
            np.testing.assert_allclose(again, np.stack([mean, mean]), rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("is_complex", [False, True])
    def test_zeros_stay_zeros(self, is_complex, rng):
        """And the rest is as without these columns."""
        factors, y, relevances, variance = setup(rng, "three", is_complex)
        relevances[0][1] = 0.0
        relevances[1][0] = 0.0
        observations = observe(factors, y)
        kept = [factors[0][:, [0, 2]], factors[1][:, [1]], factors[2]]
        mean, covariance = dense_posterior(
            kept, y, [relevances[0][[0, 2]], relevances[1][[1]], relevances[2]], variance
        )
        spectrum = decompose(observations, relevances)
        many = [np.repeat(g[None], self.count, axis=0) for g in relevances]
        for draws in (
            matheron_draws(spectrum, variance, rng, self.count),
            conditional_draws(observations, many, np.full(self.count, variance), rng),
        ):
            assert not draws[:, :, 1].any()
            assert not draws[:, :, :, 0].any()
            check_moments(draws[:, :, [0, 2], 1:], mean, covariance)

    def test_zeros_of_single_draws(self, rng):
        factors, y, relevances, variance = setup(rng, "wide", False)
        many = [np.repeat(g[None], 4, axis=0) for g in relevances]
        many[0][2, 3] = 0.0
        draws = conditional_draws(observe(factors, y), many, np.full(4, variance), rng)
        assert not draws[2, :, 3].any()
        assert draws[[0, 1, 3]].all()
        assert draws[2, :, :3].all()

    def test_all_switched_off(self, rng):
        factors, y, relevances, variance = setup(rng, "wide", False)
        relevances[1] = np.zeros(5)
        observations = observe(factors, y)
        one = matheron_draws(decompose(observations, relevances), variance, rng, 3)
        many = [np.repeat(g[None], 3, axis=0) for g in relevances]
        each = conditional_draws(observations, many, np.full(3, variance), rng)
        for draws in (one, each):
            np.testing.assert_array_equal(draws, np.zeros((3, 2, 4, 5)))

    @pytest.mark.parametrize("is_complex", [False, True])
    def test_the_same_seed_gives_the_same_draws(self, is_complex, rng, monkeypatch):
        """However many are computed at once."""
        factors, y, relevances, variance = setup(rng, "three", is_complex)
        observations = observe(factors, y)
        many = [g * rng.uniform(0.5, 2.0, (50, 1)) for g in relevances]
        spectrum = decompose(observations, relevances)

        def both(seed):
            first, second = np.random.default_rng(seed), np.random.default_rng(seed)
            variances = np.full(50, variance)
            return np.stack(
                [
                    conditional_draws(observations, many, variances, first),
                    matheron_draws(spectrum, variance, second, 50),
                ]
            )

        before = both(1)
        np.testing.assert_array_equal(both(1), before)
        assert not np.isclose(both(2), before).any()
        monkeypatch.setattr(conditional, "_BYTES", 20_000)
        np.testing.assert_allclose(both(1), before, rtol=1e-12, atol=1e-12)

    def test_shapes_that_do_not_fit(self, rng):
        factors, y, relevances, variance = setup(rng, "wide", False)
        observations, variances = observe(factors, y), np.full(3, variance)
        many = [np.repeat(g[None], 3, axis=0) for g in relevances[::-1]]
        with pytest.raises(ShapeError, match=r"\(3, 4\), \(3, 5\)"):
            conditional_draws(observations, many, variances, rng)


# -------------------------------------------------------------------- both together


def complex_sparse(factors, y=None):
    scales = [
        numpyro.sample(f"gamma_{i}", dist.Gamma(2.0, 2.0).expand([h.shape[1]]).to_event(1))
        for i, h in enumerate(factors)
    ]
    noise = numpyro.sample("noise", dist.HalfNormal(1.0))
    with numpyro.plate("snapshot", 2):
        x = numpyro.sample("x", ComplexKroneckerNormal(scales))
        numpyro.sample(
            "y",
            ComplexKroneckerLinear(factors, x, noise),
            obs=None if y is None else as_pairs(y),
        )


@pytest.mark.parametrize("is_complex", [False, True])
def test_same_posterior_as_of_the_whole_program(is_complex, rng):
    """NUTS with and without the coefficients: means and second moments of all unknowns.

    At most 104 z-scores below 4.5: a false alarm in 1400 runs.
    """
    program, snapshots = (complex_sparse, (2,)) if is_complex else (sparse, ())
    data = simulated(rng, snapshots=snapshots, is_complex=is_complex)
    model = bayes.Model(program)
    collapsed = collapsed_model(model, "x", "y")
    method = bayes.NUTS(chains=4, warmup=400, draws=1000)
    whole = bayes.fit(model, data, method=method, seed=1, progress=False).data.posterior
    alone = bayes.fit(collapsed, data, method=method, seed=2, progress=False).data.posterior
    names = ("gamma_0", "gamma_1", "noise")
    draws = {n: alone[n].values.reshape(4000, *alone[n].shape[2:]) for n in names}
    relevances, variances = variances_at(collapsed.bind(data), draws)
    y = data["y"] if is_complex else data["y"][None]
    x = conditional_draws(observe(data["factors"], y), relevances, variances, rng)
    x = as_pairs(x) if is_complex else x[:, 0]
    found = {n: alone[n].values for n in names} | {"x": x.reshape(4, 1000, *x.shape[1:])}
    for name, values in found.items():
        expected = whole[name].values
        assert values.shape == expected.shape
        for power in (1, 2) if name == "x" else (1,):
            pair = [v.reshape(4, 1000, -1) ** power for v in (values, expected)]
            errors = [arviz_stats.mcse(p, method="mean", chain_axis=0, draw_axis=1) for p in pair]
            z = (pair[0].mean((0, 1)) - pair[1].mean((0, 1))) / np.hypot(*errors)
            assert np.abs(z).max() < 4.5, (name, power, z)
