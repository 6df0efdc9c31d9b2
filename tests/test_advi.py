"""ADVI: exact where the posterior is in the family, honest where it is not."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models_for_tests import SCHOOLS_DATA, regression, schools
from numpyro.infer.initialization import init_to_value

import bayes
from bayes.compilation import computing
from bayes.diagnostics.importance import importance_ratios
from bayes.inference.advi import ADVI
from bayes.inference.ascent import Ascent, Frame, judge, merge
from bayes.inference.families import FullRank, LowRank, MeanField
from bayes.normals import covariance
from bayes.precision import double_precision


def gaussian(design, y=None):
    """A normal posterior: precision X'X + I / 25."""
    b = numpyro.sample("b", dist.Normal(0.0, 5.0).expand([design.shape[1]]).to_event(1))
    with numpyro.plate("row", design.shape[0]):
        numpyro.sample("y", dist.Normal(design @ b, 1.0), obs=y)


def factor_target(columns, y):
    """A normal posterior whose covariance is I + W W', seen as a prior."""
    size = columns.shape[0]
    x = numpyro.sample("x", dist.LowRankMultivariateNormal(jnp.ones(size), columns, jnp.ones(size)))
    numpyro.sample("y", dist.Normal(x[0] * 0.0, 1.0), obs=y)


def banana(y):
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    b = numpyro.sample("b", dist.Normal(a**2, 0.2))
    numpyro.sample("y", dist.Normal(b, 3.0), obs=y)


def tailed(y):
    with numpyro.plate("element", 5):
        x = numpyro.sample("x", dist.StudentT(1.0, 0.0, 1.0))
    numpyro.sample("y", dist.Normal(x[0], 100.0), obs=y)


def bounded(y):
    """No density above 1, though the unconstrained space does not say so."""
    x = numpyro.sample("x", dist.Normal(0.0, 1.0))
    numpyro.factor("bound", jnp.where(x < 1.0, 0.0, -jnp.inf))
    numpyro.sample("y", dist.Normal(x, 1.0), obs=y)


@pytest.fixture(scope="module")
def gaussian_data():
    """Correlated columns whose scales are a thousand apart."""
    rng = np.random.default_rng(0)
    design = rng.normal(size=(60, 5)) @ (np.eye(5) + 0.4) * np.array([10.0, 1, 1, 0.1, 0.01])
    return {"design": design, "y": design @ np.ones(5) + rng.normal(size=60)}


def moments(data):
    precision = data["design"].T @ data["design"] + np.eye(5) / 25
    return np.linalg.solve(precision, data["design"].T @ data["y"]), precision


def settle(program, data, method, seed=0):
    """The problem and the last state of the ascent."""
    with computing():
        problem = bayes.Model(program).bind(data)
        state = method.init(problem, jax.random.key(seed))
        while not method.settled(problem, state):
            state, _ = method.step(problem, state)
    return problem, state


def normal_of(program, data, method, seed=0):
    problem, state = settle(program, data, method, seed)
    assert method.converged(problem, state) == ""
    return method.normal(problem, state)


def test_full_rank_is_exact_on_a_normal_posterior(gaussian_data):
    """At the optimum each gradient is zero, not only their mean: what is left is the stopping rule.

    That lets averages be 0.05 standard deviations apart, and a tenth of it where they drift. No
    Monte Carlo error is left, so that nothing is a false alarm.
    """
    mean, precision = moments(gaussian_data)
    normal = normal_of(gaussian, gaussian_data, ADVI(family="full_rank"))
    factor = np.linalg.cholesky(precision)
    assert np.linalg.norm(factor.T @ (normal.mean - mean)) < 0.02
    whitened = factor.T @ covariance(normal) @ factor
    np.testing.assert_allclose(whitened, np.eye(5), atol=0.02)


def test_mean_field_has_the_exact_mean_and_the_conditional_scales(gaussian_data):
    """The means' noise cancels in antithetic pairs; that of the scales is averaged over.

    Of n = 400 steps or more of 5 pairs, whose noise in a log scale is of variance (c - 1) / 2 with
    c = (R^2)_ii for the precision's correlations R: at |z| < 4.5 a false alarm in 30 000.
    """
    mean, precision = moments(gaussian_data)
    normal = normal_of(gaussian, gaussian_data, ADVI())
    sd, scale = np.sqrt(np.diag(np.linalg.inv(precision))), np.diag(precision) ** -0.5
    assert np.all(np.abs(normal.mean - mean) < 0.01 * sd)
    correlation = precision * np.outer(scale, scale)
    noise = np.sqrt((np.diag(correlation @ correlation) - 1) / 2 / (5 * 200))
    assert np.all(np.abs(np.log(normal.sd / scale)) < 4.5 * noise + 0.005)


def test_low_rank_finds_a_covariance_of_low_rank():
    """The posterior is in the family, so that the gradient's noise ends with the error.

    What is left is the stopping rule: a symmetrised divergence of 0.05^2 an element.
    """
    rng = np.random.default_rng(1)
    columns = rng.normal(size=(20, 2)) * np.array([3.0, 1.0])
    data = {"columns": columns, "y": np.zeros(())}
    normal = normal_of(factor_target, data, ADVI(family="low_rank", rank=2))
    exact = np.eye(20) + columns @ columns.T
    factor = np.linalg.inv(np.linalg.cholesky(exact))
    assert np.linalg.norm(factor @ (normal.mean - 1.0)) < 0.1
    values = np.linalg.eigvalsh(factor @ covariance(normal) @ factor.T)
    assert 0.5 * (values + 1 / values - 2).sum() < 20 * 0.05**2


def test_low_rank_with_all_directions_is_full_rank():
    found = [
        settle(regression, regression_data(), ADVI(family=family, steps=600))[1]["answer"]
        for family in ("low_rank", "full_rank")
    ]
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.parametrize("family", [MeanField(), FullRank(), LowRank(2)])
def test_the_gradient_is_zero_for_every_draw_at_the_posterior(family):
    """Sticking the landing: with as few as one draw nothing of the noise is left."""
    ascent = Ascent(family, 3)
    rng = np.random.default_rng(0)
    with double_precision():
        params = jax.tree.map(lambda v: jnp.asarray(v + 0.2), family.init(3, rng))
        if "factor" in params:
            params["factor"] = jnp.tril(params["factor"])
        frame = Frame(jnp.array([1.0, 2.0, 3.0]), jnp.array([0.5, 1.0, 2.0]))

        def density(x, words, more):
            def log_density(v):
                return family.log_prob(params, ((v - frame.centre) / frame.scale)[None])[0]

            return jax.vmap(jax.value_and_grad(log_density))(x)

        noise = jnp.asarray(rng.standard_normal((1, family.noise(3))))
        words = jnp.zeros((1, 2), jnp.uint32)
        run = jax.jit(lambda *given: ascent.gradient(*given, frame, density, None))
        gradient, _ = run(params, noise, words)
    for leaf in jax.tree.leaves(gradient):
        np.testing.assert_allclose(leaf, 0.0, atol=1e-12)


def test_a_flow_beats_a_normal_on_a_banana():
    """The ELBO is higher by more than half, and the draws can be mended by their weights."""
    found = {}
    for family in ("full_rank", "flow"):
        method = ADVI(family=family, layers=2, width=8, steps=2000)
        with computing():
            problem = bayes.Model(banana).bind({"y": np.asarray(1.0)})
            state = method.init(problem, jax.random.key(0))
            chunks = []
            while not method.done(problem, state):
                state, chunk = method.step(problem, state)
                chunks.append(chunk)
            draws = method.finish(problem, state, chunks, jax.random.key(1))
        lp, log_q = np.ravel(draws.stats["lp"]), np.ravel(draws.log_q)
        found[family] = np.mean(lp - log_q), importance_ratios(lp, log_q).khat
    assert found["flow"][0] > found["full_rank"][0] + 0.5
    assert found["flow"][1] < 0.7 < found["full_rank"][1]


def test_a_bad_approximation_is_flagged():
    """A normal for five Cauchy elements: its ratios have the tail of a Cauchy over a normal."""
    with pytest.warns(bayes.ConvergenceWarning):
        post = bayes.fit(tailed, {"y": np.asarray(0.0)}, ADVI(draws=2000), seed=0)
    assert not post.diagnostics.ok
    assert not post.diagnostics["khat"].passed


def test_densities_that_are_not_finite_are_skipped_counted_and_reported():
    """Half of the steps or so have a draw without density; the others still give draws."""
    with pytest.warns(bayes.ConvergenceWarning):
        post = bayes.fit(bounded, {"y": np.asarray(0.0)}, ADVI(draws=500, steps=1000), seed=0)
    info = post.method.info
    assert 0 < info["steps_skipped"] <= info["steps_taken"]
    assert "not finite" in info["not_converged"]
    assert np.isfinite(post.draws("x").values).all()


def test_steps_that_run_out_are_reported():
    method = ADVI(steps=100)
    problem, state = settle(regression, regression_data(), method)
    assert "had not settled after 100 steps" in method.converged(problem, state)


def regression_data(shift=0.0):
    x = np.linspace(-1, 1, 30)
    return {"x": x, "y": 1.0 + 2.0 * x + 0.3 * np.sin(50 * x + shift)}


@pytest.mark.parametrize("family", ["low_rank", "full_rank", "flow"])
def test_a_state_that_went_through_a_file_goes_on_to_the_bit(family, tmp_path):
    """Mean field is among the methods of the contract's tests."""
    method = ADVI(draws=100, family=family, rank=2, layers=2, width=4, steps=500, samples=4)

    def run(through_file):
        with computing():
            problem = bayes.Model(regression).bind(regression_data())
            state = method.init(problem, jax.random.key(0))
            names = set(state)
            chunks = []
            while not method.done(problem, state):
                if through_file:
                    np.savez(tmp_path / "s.npz", **state)
                    with np.load(tmp_path / "s.npz", allow_pickle=False) as file:
                        state = {name: file[name] for name in file.files}
                state, chunk = method.step(problem, state)
                assert set(state) == names
                chunks.append(chunk)
            return method.finish(problem, state, chunks, jax.random.key(1))

    whole, resumed = run(False), run(True)
    for site, value in whole.values.items():
        np.testing.assert_array_equal(value, resumed.values[site])


def test_a_second_fit_of_the_same_shapes_compiles_nothing():
    method = ADVI(family="full_rank", draws=500)
    first = bayes.fit(regression, regression_data(), method, seed=0)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(event) if "backend_compile" in event else None
    )
    try:
        second = bayes.fit(regression, regression_data(1.0), method, seed=0)
    finally:
        jax.monitoring.clear_event_listeners()
    assert compiled == []
    assert not np.array_equal(first.draws("slope"), second.draws("slope"))


def test_same_seed_same_bits_other_seed_other_draws():
    method = ADVI(draws=200, steps=600)
    found = [settle(regression, regression_data(), method, seed)[1]["answer"] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_a_regression_passes_its_checks():
    """Full rank covers a posterior that is nearly normal."""
    x = np.linspace(-1, 1, 200)
    data = {"x": x, "y": 1.0 + 2.0 * x + 0.3 * np.sin(50 * x)}
    post = bayes.fit(regression, data, ADVI(family="full_rank"), seed=1)
    assert post.diagnostics.ok, post.diagnostics
    objective = post.method.info["objective"]
    assert len(objective) == post.method.info["steps_taken"] // 50
    assert objective[-1] > objective[0] - 1.0


def test_a_mode_without_mass_is_not_where_it_starts():
    """Centred schools have a density without bound at tau = 0; the ELBO has its maximum away."""
    problem, state = settle(schools, SCHOOLS_DATA, ADVI(family="full_rank"))
    place = problem.program.coordinates.index("tau")
    normal = ADVI(family="full_rank").normal(problem, state)
    assert abs(normal.mean[place] - 1.0) < 1.0


def test_a_start_that_is_asked_for_is_taken():
    method = ADVI(init_strategy=init_to_value(values={"b": np.full(5, 0.3)}), candidates=1)
    rng = np.random.default_rng(0)
    data = {"design": rng.normal(size=(60, 5)), "y": rng.normal(size=60)}
    normal_of(gaussian, data, method)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"family": "normal"}, r"family must be one of mean_field, .*'normal'"),
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"samples": 2.5}, r"samples must be a whole number, got 2\.5"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"layers": 0}, "layers must be at least 1"),
        ({"width": 0}, "width must be at least 1"),
        ({"starts": 0}, "starts must be at least 1"),
        ({"draws": 0}, "draws must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"tolerance": -1.0}, "tolerance must be positive"),
        ({"init_strategy": 3}, "init_strategy must be one of"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, text, unchecked):
    with pytest.raises(bayes.SettingsError, match=text):
        ADVI(**settings)


def test_stretches_that_agree_noise_and_drift():
    """A steady drift counts ten times, one that is ending twice."""
    assert judge(0.0024, 0.0, np.inf, 1, 0.05) == (True, False)
    assert judge(0.0026, 0.0, np.inf, 1, 0.05) == (False, False)
    assert judge(0.0006, 0.9, np.inf, 1, 0.05) == (True, False)
    assert judge(0.0004, 0.9, 0.001, 1, 0.05) == (False, False)
    assert judge(0.0004, 0.9, 0.01, 1, 0.05) == (True, False)
    assert judge(1.0, 0.0, np.inf, 1, 0.05) == (False, True)
    assert judge(float("nan"), 0.0, np.inf, 1, 0.05)[0] is False


def test_two_bins_become_one():
    bins = np.arange(8.0)[:, None]
    np.testing.assert_array_equal(merge(bins)[:, 0], [0.5, 2.5, 4.5, 6.5, 0, 0, 0, 0])
