"""NUTS and HMC against posteriors that are known exactly.

Thresholds are in combined Monte Carlo standard errors: |z| < 4.5 fails a right sampler about once
in 150 000 comparisons, and a test here makes at most 30.
"""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats
from arviz_stats.base import array_stats
from models_for_tests import SCHOOLS_DATA, funnel, normal_mean, regression, schools
from numpyro.infer import init_to_value

import bayes
from bayes.compilation import computing
from bayes.inference import pacing, threads

AXES = {"chain_axis": 0, "draw_axis": 1}
Z = 4.5


def z_scores(draws: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Distance of the draws' mean from the exact one in Monte Carlo standard errors."""
    error = draws.std(axis=(0, 1)) / np.sqrt(array_stats.ess(draws, method="mean", **AXES))
    return (draws.mean(axis=(0, 1)) - mean) / error


def assert_moments(draws: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> None:
    assert np.abs(z_scores(draws, mean)).max() < Z
    assert np.abs(z_scores((draws - mean) ** 2, np.square(sd))).max() < Z


METHODS = {
    "nuts": bayes.NUTS(warmup=300, draws=1000),
    "nuts-diagonal": bayes.NUTS(warmup=300, draws=1000, metric="diagonal"),
    "nuts-dense": bayes.NUTS(warmup=300, draws=1000, metric="dense"),
    "hmc": bayes.HMC(warmup=300, draws=1000),
}


@pytest.fixture(params=METHODS)
def method(request):
    return METHODS[request.param]


def test_conjugate_normal(method):
    y = np.array([0.3, 2.1, -0.7, 1.9, 0.4])
    post = bayes.fit(normal_mean, {"n": 5, "y": y}, method, seed=1)
    precision = 1 / 2.0**2 + 5 / 1.5**2
    mean = (1.0 / 2.0**2 + y.sum() / 1.5**2) / precision
    assert_moments(post.draws("mu").values, mean, precision**-0.5)
    assert post.diagnostics.ok, post.diagnostics


def known_noise(x, prior_sd, y=None):
    beta = numpyro.sample("beta", dist.Normal(0, prior_sd).to_event(1))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(x @ beta, 0.5), obs=y)


def test_correlated_gaussian_of_unequal_scales(method, rng):
    """Scales from 0.01 to 100 and correlations above 0.99; a fixed metric would need 10^4 steps."""
    d = 12
    x = rng.normal(size=(40, d)) + 8.0 * rng.normal(size=(40, 1))
    x *= np.logspace(-2, 2, d)
    prior_sd = 10.0 / np.logspace(-2, 2, d)
    y = rng.normal(size=40)
    data = {"x": x, "prior_sd": prior_sd, "y": y}
    covariance = np.linalg.inv(x.T @ x / 0.25 + np.diag(prior_sd**-2))
    mean = covariance @ x.T @ y / 0.25
    if method.metric == "diagonal":
        pytest.skip("correlation is what a diagonal metric does not learn")
    post = bayes.fit(known_noise, data, method, seed=2)
    assert_moments(post.draws("beta").values, mean, np.sqrt(np.diag(covariance)))
    if method.name == "nuts":
        assert post.data["sample_stats"]["n_steps"].values.mean() < 10


def counts(n, k=None, c=None):
    p = numpyro.sample("p", dist.Beta(2, 3))
    rate = numpyro.sample("rate", dist.Gamma(2.0, 0.5))
    low = numpyro.sample("low", dist.TruncatedNormal(0.0, 1.0, low=1.0))
    numpyro.sample("k", dist.Binomial(n, p), obs=k)
    with numpyro.plate("day", 6):
        numpyro.sample("c", dist.Poisson(rate), obs=c)
    numpyro.deterministic("twice", 2 * low)


def test_bounded_posteriors(method):
    c = np.array([3, 1, 4, 1, 5, 9])
    post = bayes.fit(counts, {"n": np.asarray(12), "k": np.asarray(3), "c": c}, method, seed=3)
    exact = {
        "p": scipy.stats.beta(2 + 3, 3 + 9),
        "rate": scipy.stats.gamma(2 + c.sum(), scale=1 / (0.5 + 6)),
        "low": scipy.stats.truncnorm(1.0, np.inf),
    }
    for name, law in exact.items():
        draws = post.draws(name).values
        assert_moments(draws, law.mean(), law.std())
        # Tails: the share of draws below the 5 % and 95 % points.
        for level in (0.05, 0.95):
            below = (draws < law.ppf(level)).astype(float)
            assert abs(z_scores(below, level)) < Z
    np.testing.assert_allclose(post.draws("twice"), 2 * post.draws("low"))


def test_same_seed_same_bits_whatever_the_threads(monkeypatch):
    method = bayes.NUTS(chains=3, warmup=100, draws=60, target_accept=0.8)
    run = {}
    for cores in (1, 8):
        monkeypatch.setattr(threads.os, "cpu_count", lambda cores=cores: cores)
        with pytest.warns(bayes.ConvergenceWarning):
            run[cores] = bayes.fit(schools, SCHOOLS_DATA, method, seed=5)
    np.testing.assert_array_equal(run[1].draws("theta"), run[8].draws("theta"))
    with pytest.warns(bayes.ConvergenceWarning):
        other = bayes.fit(schools, SCHOOLS_DATA, method, seed=6)
    assert not np.array_equal(run[1].draws("theta"), other.draws("theta"))


def test_a_second_fit_of_the_same_shapes_compiles_nothing():
    x = np.linspace(-1, 1, 30)
    method = bayes.NUTS(warmup=300, draws=1000, target_accept=0.9)

    def fit(shift):
        y = 1.0 + 2.0 * x + 0.3 * np.sin(50 * x + shift)
        return bayes.fit(regression, {"x": x, "y": y}, method, seed=0)

    first = fit(0.0)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(event) if "backend_compile" in event else None
    )
    try:
        second = fit(1.0)
    finally:
        jax.monitoring.clear_event_listeners()
    assert compiled == []
    assert not np.array_equal(first.draws("slope"), second.draws("slope"))


def test_importing_and_fitting_leaves_jax_as_it_was():
    before = jax.config.jax_enable_x64, jax.config.jax_compilation_cache_dir
    bayes.fit(normal_mean, {"n": 2, "y": [0.0, 1.0]}, METHODS["nuts"])
    assert (jax.config.jax_enable_x64, jax.config.jax_compilation_cache_dir) == before


def test_draws_are_double_precision():
    post = bayes.fit(normal_mean, {"n": 2, "y": np.float32([0.0, 1.0])}, METHODS["nuts"])
    assert post.draws("mu").dtype == np.float64


def test_init_to_value_is_honoured():
    value = 40.0
    method = bayes.NUTS(
        chains=2, warmup=1, draws=1, init_strategy=init_to_value(values={"mu": value})
    )
    with pytest.warns(bayes.ConvergenceWarning):
        post = bayes.fit(normal_mean, {"n": 2, "y": [0.0, 1.0]}, method)
    assert "init_to_value" in post.method.settings["init_strategy"]
    starts = bayes.inference.starts.find_starts(
        post.problem, jax.random.key(0), 2, 3, method.init_strategy
    )
    np.testing.assert_allclose(starts.positions, value)


def test_init_to_value_may_be_indexed_with_data():
    def grouped(k, y=None):
        a = numpyro.sample("a", dist.Normal(0, 1).expand([3]).to_event(1))
        numpyro.sample("y", dist.Normal(a[k], 1), obs=y)

    method = bayes.NUTS(init_strategy=init_to_value(values={"a": np.zeros(3)}))
    data = {"k": np.array([0, 1, 2, 1]), "y": np.array([0.1, 0.5, 0.3, 0.2])}
    assert bayes.fit(grouped, data, method).diagnostics.ok


def test_max_tree_depth_bounds_the_leapfrogs():
    method = bayes.NUTS(chains=2, warmup=100, draws=100, max_tree_depth=2)
    with pytest.warns(bayes.ConvergenceWarning):
        post = bayes.fit(schools, SCHOOLS_DATA, method)
    assert post.data["sample_stats"]["n_steps"].values.max() <= 3
    assert not post.diagnostics["tree_depth"].passed


def test_target_accept_is_met():
    for target in (0.7, 0.85, 0.95):
        method = bayes.NUTS(warmup=500, draws=1000, target_accept=target)
        post = bayes.fit(
            known_noise,
            {"x": np.eye(20), "prior_sd": np.ones(20), "y": np.linspace(-1, 1, 20)},
            method,
        )
        acceptance = float(post.data["sample_stats"]["acceptance_rate"].mean())
        assert abs(acceptance - target) < 0.05, target


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"chains": 0}, "chains must be at least 1"),
        ({"draws": -3}, "draws must be at least 1"),
        ({"warmup": 0}, "warmup"),
        ({"chains": 2.5}, "whole number"),
        ({"target_accept": 1.0}, "target_accept"),
        ({"metric": "round"}, "auto, diagonal, low_rank, dense"),
        ({"step_size": -1.0}, "step_size"),
        ({"max_tree_depth": 0}, "max_tree_depth"),
        ({"target_ess": 0}, "target_ess"),
        ({"max_draws": 0}, "max_draws"),
        ({"thin": 0}, "thin"),
        ({"keep": "mu"}, "keep must name sites"),
        ({"keep": ()}, "keep must name sites"),
        ({"keep": [1]}, "keep must name sites"),
        ({"target_accept": "0.9"}, "target_accept must be a number"),
        ({"max_tree_depth": 2.5}, "max_tree_depth must be a whole number"),
        ({"init_strategy": "prior"}, "init_strategy must be one of"),
    ],
)
def test_senseless_settings_are_refused(unchecked, settings, words):
    with pytest.raises(ValueError, match=words):
        bayes.NUTS(**settings)


def test_the_verdict_on_a_funnel_advises_to_non_centre():
    model = bayes.Model(funnel, allow_prior=True)
    with pytest.warns(bayes.ConvergenceWarning, match="reparam='auto'"):
        post = bayes.fit(model, {}, bayes.NUTS(warmup=400, draws=400))
    assert not post.diagnostics.ok
    # Its x is so heavy-tailed that no number of draws settles its standard deviation.
    with pytest.warns(bayes.ConvergenceWarning, match="standard deviation of x"):
        good = bayes.fit(model, {}, bayes.NUTS(warmup=400, draws=1000), reparam="auto")
    assert [c.name for c in good.diagnostics.failed] == ["sd_error"]
    scale = good.draws("scale").values
    assert_moments(scale, 0.0, 3.0)
    x = good.draws("x").values
    # Given its scale, x is normal: its standardised value has unit variance.
    assert_moments(x / np.exp(scale / 2)[..., None], np.zeros(9), np.ones(9))


def slow(y=None):
    """Two hills with a shallow valley between them, which is crossed now and then."""
    x = numpyro.sample("x", dist.Normal(0, 30))
    numpyro.sample("z", dist.Normal(0, 3))
    hills = jax.numpy.logaddexp(-0.5 * (x - 2.4) ** 2, -0.5 * (x + 2.4) ** 2)
    numpyro.factor("hills", hills)


def test_draws_are_taken_until_there_are_enough():
    data = {"n": 5, "y": np.arange(5.0)}
    short = bayes.fit(normal_mean, data, bayes.NUTS(warmup=300), seed=1)
    assert short.diagnostics.ok
    assert short.data["posterior"].sizes["draw"] < 1000
    more = bayes.fit(normal_mean, data, bayes.NUTS(warmup=300, target_ess=3000), seed=1)
    assert more.diagnostics["ess_bulk"].value >= 3000
    assert more.diagnostics["ess_tail"].value >= 3000
    long = bayes.fit(slow, {}, bayes.NUTS(warmup=300, target_accept=0.8), seed=1)
    assert long.diagnostics.ok
    assert long.data["posterior"].sizes["draw"] > 1.5 * short.data["posterior"].sizes["draw"]
    method = bayes.NUTS(warmup=300, target_accept=0.8, max_draws=300)
    with pytest.warns(bayes.ConvergenceWarning):
        cut = bayes.fit(slow, {}, method, seed=1)
    assert cut.data["posterior"].sizes["draw"] == 300


def test_the_warm_up_ends_by_itself_and_lasts_as_long_as_it_has_to(rng):
    easy = bayes.fit(normal_mean, {"n": 5, "y": np.arange(5.0)}, bayes.NUTS(), seed=1)
    assert 100 < easy.method.info["warmup"] < 300
    # So many correlations that the first windows cannot tell them from noise.
    d = 110
    x = rng.normal(size=(200, d)) + 5.0 * rng.normal(size=(200, 1))
    data = {"x": x, "prior_sd": np.ones(d), "y": rng.normal(size=200)}
    hard = bayes.fit(known_noise, data, bayes.NUTS(), seed=1)
    assert hard.diagnostics.ok
    assert hard.method.info["metric"] == "dense"
    assert easy.method.info["warmup"] < hard.method.info["warmup"] <= 1000


def test_draws_do_not_depend_on_blocks_where_transitions_diverge(monkeypatch):
    """Centred schools diverge: when that is noticed must not depend on the clock."""
    found = []
    for seconds in (0.5, 0.01, 0.002):
        monkeypatch.setattr(pacing, "BLOCK_SECONDS", seconds)
        with pytest.warns(bayes.ConvergenceWarning):
            post = bayes.fit(schools, SCHOOLS_DATA, bayes.NUTS(max_draws=400), seed=5)
        assert post.method.info["target_accept"] > 0.9
        found.append(post.draws("mu").values)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_thin_may_be_longer_than_a_block():
    method = bayes.NUTS(chains=2, warmup=50, draws=3, thin=700, target_accept=0.8)
    with pytest.warns(bayes.ConvergenceWarning):
        post = bayes.fit(normal_mean, {"n": 5, "y": np.arange(5.0)}, method)
    assert post.data["posterior"].sizes["draw"] == 3


def test_a_target_that_is_not_reached_is_noted():
    method = bayes.NUTS(target_ess=1e6, max_draws=500)
    post = bayes.fit(normal_mean, {"n": 5, "y": np.arange(5.0)}, method)
    assert any("max_draws was reached" in note for note in post.diagnostics.notes)


def two_equal_modes(y=None):
    """Half the mass each, one of them narrow and high."""
    u = numpyro.sample("u", dist.Normal(0, 50).expand([8]).to_event(1))
    prior = dist.Normal(0, 50).log_prob(u).sum()
    narrow, wide = dist.Normal(3.0, 0.3).log_prob(u).sum(), dist.Normal(-9.0, 1.0).log_prob(u).sum()
    numpyro.factor("modes", jax.numpy.logaddexp(narrow, wide) - prior)


@pytest.mark.filterwarnings("ignore::bayes.ConvergenceWarning")
def test_a_mode_with_mass_is_never_thrown_away():
    """Where chains began in both modes, the verdict says so: neither is taken for lost."""
    both = 0
    for seed in range(6):
        method = bayes.NUTS(candidates=1, max_draws=600)
        start = bayes.fit(
            two_equal_modes, {}, bayes.NUTS(candidates=1, warmup=1, draws=1), seed=seed
        )
        sides = set(np.sign(start.draws("u").values[:, 0, 0]).tolist())
        post = bayes.fit(two_equal_modes, {}, method, seed=seed)
        if len(sides) == 2:
            both += 1
            assert not post.diagnostics.ok
    assert both, "the test needs starts in both modes: choose other seeds"


def test_thinned_draws_are_those_of_the_whole_run():
    data = {"n": 5, "y": np.arange(5.0)}
    settings = {"chains": 2, "warmup": 100, "target_accept": 0.8}
    with pytest.warns(bayes.ConvergenceWarning):
        whole = bayes.fit(normal_mean, data, bayes.NUTS(**settings, draws=120))
    with pytest.warns(bayes.ConvergenceWarning):
        thin = bayes.fit(normal_mean, data, bayes.NUTS(**settings, draws=40, thin=3))
    np.testing.assert_array_equal(thin.draws("mu"), whole.draws("mu").values[:, 2::3])
    stat = "n_steps"
    np.testing.assert_array_equal(
        thin.data["sample_stats"][stat], whole.data["sample_stats"][stat].values[:, 2::3]
    )


def test_only_the_sites_to_keep_are_kept():
    method = bayes.NUTS(keep=["mu", "tau"])
    post = bayes.fit(schools, SCHOOLS_DATA, method, reparam="auto", seed=2)
    assert set(post.data["posterior"].data_vars) == {"mu", "tau"}
    assert post.diagnostics.ok
    whole = bayes.fit(schools, SCHOOLS_DATA, bayes.NUTS(), reparam="auto", seed=2)
    n = min(post.draws("mu").shape[1], whole.draws("mu").shape[1])
    np.testing.assert_array_equal(post.draws("mu")[:, :n], whole.draws("mu")[:, :n])
    with pytest.raises(bayes.ModelError, match="theta"):
        post.predict()
    with pytest.raises(bayes.SettingsError, match="the sites are mu, tau, theta"):
        bayes.fit(schools, SCHOOLS_DATA, bayes.NUTS(keep=["nu"]))


def far_start(y=None):
    """An explosive recursion: most starts lie far out, where the noise scale swallows anything."""
    phi = numpyro.sample("phi", dist.Normal(0, 2))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    errors = jax.lax.scan(lambda e, v: ((v - phi * e),) * 2, 0.0, y)[1]
    numpyro.factor("likelihood", dist.Normal(0, sigma).log_prob(errors).sum())


def test_chains_from_a_far_region_are_brought_back(rng):
    noise = rng.normal(size=201)
    y = noise[1:] + 0.4 * noise[:-1]
    for seed in range(3):
        post = bayes.fit(far_start, {"y": y}, bayes.NUTS(warmup=400, draws=400), seed=seed)
        assert post.diagnostics.ok, post.diagnostics
        assert abs(float(post.draws("phi").mean()) - 0.4) < 0.3


def begun(method):
    """A problem, and the state of a run at the beginning of sampling."""
    problem = bayes.Model(normal_mean).bind({"n": 5, "y": np.arange(5.0)})
    state = method.init(problem, jax.random.key(0))
    while int(state["round"]) == 0:
        state, _ = method.step(problem, state)
    return problem, state


def independent_draws():
    seen = np.random.default_rng(0).normal(size=(4, 300, 1))
    return seen, -0.5 * seen[..., 0] ** 2


def after(seen, density):
    """The entries of a state after draws."""
    path = np.concatenate([seen, density[..., None]], axis=2)[:, ::10]
    draws = np.asarray(seen.shape[1])
    return {"seen": seen, "seen_density": density, "path": path, "draws": draws}


def test_more_draws_are_taken_where_the_acceptance_had_to_be_raised():
    """1200 independent draws: enough for an effective size of 400 and 800, not for 1600."""
    method = bayes.NUTS()
    with computing():
        problem, state = begun(method)
        state = {**state, **after(*independent_draws()), "left": np.asarray(0)}
        for target, enough in ((0, True), (1, True), (2, False)):
            looked = method._look(problem, {**state, "target": np.asarray(target)})
            assert (int(looked["left"]) == 0) is enough


def test_a_chain_that_is_stuck_while_sampling_is_moved_once():
    """The look is asked directly: by itself a warm-up hardly leaves a chain so."""
    method = bayes.NUTS(chains=4, target_accept=0.8)
    with computing():
        problem, state = begun(method)
        seen, density = independent_draws()
        seen[2] += 80.0
        density[2] -= 500.0
        looked = after(seen, density)
        state = {**state, **looked, "left": np.asarray(0)}
        first = method._look(problem, state)
        assert int(first["left"]) > 0
        assert first["round"] == state["round"]
        second = method._look(problem, first)
        assert second["copies"].tolist() == [0, 0, 1, 0]
        assert second["round"] == state["round"] + 1
        assert int(second["draws"]) == 0
        assert second["x"][2] in second["x"][[0, 1, 3]]
        assert state["copies"].sum() == 0
        again = {**second, **looked}
        third = method._look(problem, method._look(problem, again))
        assert third["round"] == second["round"]


def two_modes(y=None):
    x = numpyro.sample("x", dist.Normal(0, 10))
    near = jax.numpy.logaddexp(dist.Normal(-8, 0.3).log_prob(x), dist.Normal(8, 0.3).log_prob(x))
    numpyro.factor("modes", near)


def test_chains_in_different_modes_are_named():
    method = bayes.NUTS(warmup=200, draws=300, candidates=1)
    with pytest.warns(bayes.ConvergenceWarning):
        post = bayes.fit(two_modes, {}, method, seed=4)
    signs = np.sign(post.draws("x").values.mean(axis=1))
    assert len(set(signs)) == 2, "the test needs chains in both modes: choose another seed"
    assert not post.diagnostics["rhat"].passed
    if (signs == signs[0]).sum() in (1, 3):
        alone = int(np.flatnonzero(signs == (1 if (signs > 0).sum() == 1 else -1))[0])
        assert f"chain {alone}" in post.diagnostics["stuck_chains"].advice
