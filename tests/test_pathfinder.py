"""Pathfinder: exact on normal posteriors, fair to several modes, and honest where there is none."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models_for_tests import SCHOOLS_DATA, normal_mean, regression, schools
from numpyro.infer import init_to_uniform, init_to_value

import bayes
from bayes.checkpoint import Checkpoint
from bayes.compilation import computing
from bayes.inference.densities import densities_at, gradients_at
from bayes.inference.pathfinder import Pathfinder
from bayes.normals import Normal, covariance, log_prob

REAL = dist.constraints.real_vector
Y = {"n": 5, "y": np.array([0.3, 2.1, -0.7, 1.9, 0.4])}


def gaussian(mean, precision):
    x = numpyro.sample("x", dist.ImproperUniform(REAL, (), mean.shape))
    numpyro.factor("normal", -0.5 * (x - mean) @ precision @ (x - mean))


def two_modes(apart, share):
    """Normals of sd 1 about apart and of sd 1/2 about -apart, with shares of the mass."""
    x = numpyro.sample("x", dist.ImproperUniform(REAL, (), (2,)))
    right = jnp.log(share) - 0.5 * jnp.square(x - apart).sum()
    left = jnp.log(1.0 - share) - 2.0 * jnp.square(x + apart).sum() + 2.0 * jnp.log(2.0)
    numpyro.factor("two", jnp.logaddexp(right, left))


def slope(rate):
    x = numpyro.sample("x", dist.ImproperUniform(REAL, (), (2,)))
    numpyro.factor("s", rate * x.sum())


def upward(rate):
    x = numpyro.sample("x", dist.ImproperUniform(REAL, (), (2,)))
    numpyro.factor("up", rate * jnp.square(x).sum())


def exponential(rate):
    x = numpyro.sample("x", dist.ImproperUniform(REAL, (), (2,)))
    numpyro.factor("e", jnp.exp(rate * x).sum())


def half(edge):
    """Half of a normal: no density beyond the edge, which a tenth of the mass is near."""
    x = numpyro.sample("x", dist.Normal(0.0, 1.0))
    numpyro.factor("half", jnp.where(x > edge, 0.0, -jnp.inf))


def target(d, rng, condition=10.0):
    """Scales over two decades, and correlations of a condition number."""
    basis, _ = np.linalg.qr(rng.normal(size=(d, d)))
    precision = (basis * np.geomspace(1.0, condition, d)) @ basis.T
    scale = 10.0 ** np.linspace(-1, 1, d)
    precision = 0.5 * (precision + precision.T) / np.outer(scale, scale)
    return {"mean": scale * rng.normal(size=d), "precision": precision}


def log_evidence(precision):
    return 0.5 * (len(precision) * np.log(2.0 * np.pi) - np.linalg.slogdet(precision)[1])


def bound(model, data):
    with computing():
        return bayes.Model(model).bind(data)


def run(method, problem, seed=0, most=None):
    """Draws of a method after all blocks, or some."""
    with computing():
        state, chunks = method.init(problem, jax.random.key(seed)), []
        while not method.done(problem, state) and (most is None or len(chunks) < most):
            state, chunk = method.step(problem, state)
            chunks.append(chunk)
        return state, method.finish(problem, state, chunks, jax.random.key(9))


@pytest.fixture
def compiled():
    """Compilations since the test began."""
    found = []

    def listen(event, seconds, **_):
        if "backend_compile" in event:
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


class TestNormalPosteriors:
    @pytest.mark.parametrize(("d", "condition"), [(5, 10.0), (30, 1.0)])
    def test_moments_are_exact(self, d, condition, rng):
        """Within 5 Monte Carlo errors of as many draws as are effective: one alarm in 15 000."""
        data = target(d, rng, condition)
        post = bayes.fit(gaussian, data, Pathfinder(), seed=1)
        assert post.diagnostics.ok
        x = post.draws("x").values[0]
        sigma = np.linalg.inv(data["precision"])
        sd = np.sqrt(np.diagonal(sigma))
        ess = post.method.info["importance"]["ess"]
        assert ess > 400
        z = (x - data["mean"]) / sd
        assert (np.abs(z.mean(axis=0)) < 5.0 / np.sqrt(ess)).all()
        assert (np.abs(np.square(z).mean(axis=0) - 1.0) < 5.0 * np.sqrt(2.0 / ess)).all()
        correlation = sigma / np.outer(sd, sd)
        error = np.sqrt((1.0 + correlation**2) / ess)
        assert (np.abs(z.T @ z / len(z) - correlation) < 5.0 * error).all()

    @pytest.mark.parametrize("d", [5, 30])
    def test_ratios_of_raw_draws_have_the_evidence_for_a_mean(self, d, rng):
        """So log_q is that of the draws, and lp that of the model; within 5 errors."""
        data = target(d, rng)
        _, draws = run(Pathfinder(importance=False, draws=8000), bound(gaussian, data))
        ratios = np.exp(draws.stats["lp"][0] - draws.log_q[0] - log_evidence(data["precision"]))
        assert abs(ratios.mean() - 1.0) < 5.0 * ratios.std() / np.sqrt(len(ratios))

    def test_bounds_are_below_the_evidence_and_near_it(self, rng):
        """In five dimensions, where a path knows the covariance in the end."""
        data = target(5, rng)
        state, _ = run(Pathfinder(elbo_draws=200), bound(gaussian, data))
        exact = log_evidence(data["precision"])
        assert (np.abs(state["bounds"] - exact) < 0.2).any()
        assert (state["bounds"] < exact + 0.2).all()
        np.testing.assert_allclose(state["maxima"], 0.0, atol=1e-4)

    def test_its_normal_is_near_the_posterior(self, rng):
        """By the divergence in closed form, to half a nat."""
        data = target(5, rng)
        post = bayes.fit(gaussian, data, Pathfinder(), seed=1)
        group = post.data["approximation"]
        normal = Normal(*(group[name].values for name in Normal._fields))
        product, offset = data["precision"] @ covariance(normal), normal.mean - data["mean"]
        divergence = np.trace(product) - 5.0 - np.linalg.slogdet(product)[1]
        divergence += offset @ data["precision"] @ offset
        assert 0.0 <= 0.5 * divergence < 0.5


MODES = {"apart": np.asarray(3.0), "share": np.asarray(0.7)}


class TestTwoModes:
    method = Pathfinder(paths=12, candidates=1, init_strategy=init_to_uniform(radius=6.0))

    @pytest.mark.parametrize("share", [0.7, 0.2])
    def test_both_are_found_and_have_their_shares(self, share):
        """Within 5 errors of a share by as many draws as are effective: one in two million."""
        data = {"apart": np.asarray(3.0), "share": np.asarray(share)}
        post = bayes.fit(two_modes, data, self.method, seed=0)
        assert post.diagnostics.ok
        x, ess = post.draws("x").values[0], post.method.info["importance"]["ess"]
        right = x[:, 0] > 0
        assert abs(right.mean() - share) < 5.0 * np.sqrt(share * (1.0 - share) / ess)
        for side, mean, sd in ((right, 3.0, 1.0), (~right, -3.0, 0.5)):
            error = sd / np.sqrt(ess * side.mean())
            assert (np.abs(x[side].mean(axis=0) - mean) < 5.0 * error).all()
            assert (np.abs(x[side].std(axis=0) - sd) < 5.0 * error).all()

    def test_paths_end_at_either(self):
        """Heights of the two maxima are known."""
        state, _ = run(self.method, bound(two_modes, MODES))
        heights = np.log([0.7, 0.3 * 4.0])
        nearest = np.abs(state["maxima"][:, None] - heights)
        np.testing.assert_allclose(nearest.min(axis=1), 0.0, atol=1e-3)
        assert set(nearest.argmin(axis=1)) == {0, 1}

    def test_weights_are_to_the_whole_mixture(self):
        """Where paths meet, draws of one are not taken for rare because the other has few."""
        problem = bound(two_modes, MODES)
        method = dataclasses.replace(self.method, importance=False, draws=8000)
        _, draws = run(method, problem)
        evidence = np.log(2.0 * np.pi)
        ratios = np.exp(draws.stats["lp"][0] - draws.log_q[0] - evidence)
        assert abs(ratios.mean() - 1.0) < 5.0 * ratios.std() / np.sqrt(len(ratios))


class TestWhereThereIsNone:
    @pytest.mark.parametrize("model", [slope, upward, exponential])
    def test_a_density_without_bound_is_not_ok(self, model):
        with pytest.warns(bayes.ConvergenceWarning):
            post = bayes.fit(model, {"rate": np.asarray(1.0)}, Pathfinder(draws=500), seed=0)
        assert not post.diagnostics.ok
        assert not post.diagnostics["khat"].passed

    def test_where_no_bound_is_finite_it_says_so(self):
        with pytest.warns(bayes.ConvergenceWarning, match="rises without bound"):
            post = bayes.fit(exponential, {"rate": np.asarray(1.0)}, Pathfinder(draws=500), seed=0)
        assert not post.diagnostics["objective"].passed
        assert post.method.info["elbo_by_path"] == [None] * 8
        assert "approximation" not in post.data.children

    def test_centred_schools_are_not_ok(self):
        with pytest.warns(bayes.ConvergenceWarning):
            post = bayes.fit(schools, SCHOOLS_DATA, Pathfinder(), seed=0)
        assert not post.diagnostics.ok

    def test_draws_beyond_an_edge_are_thrown_away(self):
        """Of a normal that is cut at -1: mean of the rest, by the ratio of Mills."""
        from scipy.stats import truncnorm

        post = bayes.fit(half, {"edge": np.asarray(-1.0)}, Pathfinder(), seed=0)
        x, ess = post.draws("x").values, post.method.info["importance"]["ess"]
        exact = truncnorm(-1.0, np.inf)
        assert (x > -1.0).all()
        assert abs(x.mean() - exact.mean()) < 5.0 * exact.std() / np.sqrt(ess)


class TestSettings:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"draws": 0}, "draws must be at least 1"),
            ({"draws": 10.0}, "draws must be a whole number"),
            ({"paths": 0}, "paths must be at least 1"),
            ({"paths": "8"}, "paths must be a whole number"),
            ({"elbo_draws": 0}, "elbo_draws must be at least 1"),
            ({"elbo_draws": None}, "elbo_draws must be a whole number"),
            ({"candidates": -1}, "candidates must be at least 1"),
            ({"candidates": True}, "candidates must be a whole number"),
            ({"importance": "yes"}, "importance must be True or False, got 'yes'"),
            ({"importance": 1}, "importance must be True or False, got 1"),
            ({"init_strategy": "median"}, "init_strategy must be one of numpyro"),
        ],
    )
    def test_those_that_make_no_sense_are_refused(self, settings, message, unchecked):
        with pytest.raises(bayes.SettingsError, match=message):
            Pathfinder(**settings)

    @pytest.mark.parametrize("paths", [1, 3])
    def test_as_many_paths_as_asked_for(self, paths):
        state, draws = run(Pathfinder(paths=paths, draws=100), bound(normal_mean, Y))
        assert state["mean"].shape == (paths, 1)
        assert len(draws.info["elbo_by_path"]) == paths

    @pytest.mark.parametrize("draws", [1, 30, 9001])
    def test_as_many_draws_as_asked_for(self, draws):
        for importance in (True, False):
            method = Pathfinder(paths=2, draws=draws, importance=importance)
            _, found = run(method, bound(normal_mean, Y))
            assert found.values["mu"].shape == (1, draws)
            assert found.positions.shape == (1, draws, 1)

    def test_starts_come_from_the_strategy(self):
        method = Pathfinder(init_strategy=init_to_value(values={"mu": 0.25}), paths=2)
        with computing():
            state = method.init(bound(normal_mean, Y), jax.random.key(0))
        np.testing.assert_allclose(state["x"], 0.25)

    def test_without_resampling_draws_are_of_the_mixture(self):
        problem = bound(normal_mean, Y)
        _, draws = run(Pathfinder(importance=False, paths=1), problem)
        assert draws.info["route"] == "raw"
        assert "importance" not in draws.info
        assert draws.candidates is None
        positions = draws.positions[0]
        np.testing.assert_allclose(draws.log_q[0], log_prob(draws.normal, positions), rtol=1e-10)
        with computing():
            np.testing.assert_allclose(draws.stats["lp"][0], densities_at(problem, positions))


class TestSeeds:
    def draws(self, seed):
        post = bayes.fit(normal_mean, Y, Pathfinder(draws=500), seed=seed)
        return post.draws("mu").values

    def test_same_seed_same_draws_other_seed_others(self):
        first, second, other = self.draws(4), self.draws(4), self.draws(5)
        np.testing.assert_array_equal(first, second)
        assert not np.array_equal(first, other)

    def test_paths_have_starts_of_their_own(self):
        with computing():
            state = Pathfinder().init(bound(schools, SCHOOLS_DATA), jax.random.key(0))
        assert len(np.unique(state["x"], axis=0)) == 8

    def test_starts_have_the_densities_that_the_state_says(self):
        problem = bound(schools, SCHOOLS_DATA)
        with computing():
            state = Pathfinder().init(problem, jax.random.key(0))
            values, gradients = gradients_at(problem, state["x"])
        np.testing.assert_allclose(state["lp"], values, rtol=1e-10)
        np.testing.assert_allclose(state["gradient"], gradients, rtol=1e-8, atol=1e-10)


class Killed(Exception):
    """A process that dies."""


class TestInterruption:
    method = Pathfinder(paths=3, draws=20_000)

    def test_a_run_that_dies_after_every_block_gives_the_same_bits(
        self, tmp_path, monkeypatch, rng
    ):
        data = target(5, rng)
        whole = bayes.fit(gaussian, data, self.method, seed=2)
        save, deaths = Checkpoint.save, 0

        def dying(self, state, chunk):
            save(self, state, chunk)
            raise Killed

        folder = tmp_path / "c"
        post = None
        with monkeypatch.context() as patched:
            patched.setattr(Checkpoint, "save", dying)
            while post is None:
                try:
                    post = bayes.fit(gaussian, data, self.method, seed=2, checkpoint=folder)
                except Killed:
                    deaths += 1
        assert deaths > 4  # in all three paths, and among the draws
        np.testing.assert_array_equal(post.draws("x"), whole.draws("x"))
        for group in ("sample_stats", "importance", "approximation"):
            for name, value in whole.data[group].data_vars.items():
                np.testing.assert_array_equal(post.data[group][name], value)
        assert post.method.info == whole.method.info

    def test_stopped_before_the_first_path_it_has_draws_that_say_so(self, rng):
        problem = bound(gaussian, target(5, rng))
        method = Pathfinder()
        with computing():
            state = method.init(problem, jax.random.key(0))
            draws = method.finish(problem, state, [], jax.random.key(1))
        assert draws.length > 0
        assert np.isfinite(draws.values["x"]).all()
        assert "no path has found" in draws.info["not_converged"]
        assert draws.normal is None

    @pytest.mark.parametrize("most", [1, 2])
    def test_stopped_between_paths_it_says_how_many_are_missing(self, most, rng):
        _, draws = run(self.method, bound(gaussian, target(5, rng)), most=most)
        assert f"{3 - most} of 3 paths were not climbed" in draws.info["not_converged"]
        assert draws.info["elbo_by_path"].count(None) == 3 - most
        assert draws.normal is not None
        assert draws.length > 0

    def test_a_budget_that_ends_at_once_is_an_error_or_a_verdict(self, rng):
        with pytest.raises(bayes.NoDrawsError, match="before its first draw"):
            bayes.fit(gaussian, target(5, rng), Pathfinder(), budget=1e-9)

    def test_a_budget_that_ends_between_paths_is_no_good_verdict(self, monkeypatch, rng):
        """Paths take a tenth of a second here, so that some of a thousand are done in one."""
        data, improve = target(5, rng), Pathfinder.improve

        def slow(self, problem, state):
            time.sleep(0.1)
            return improve(self, problem, state)

        monkeypatch.setattr(Pathfinder, "improve", slow)
        with pytest.warns(bayes.ConvergenceWarning, match="stopped early: budget"):
            post = bayes.fit(gaussian, data, Pathfinder(paths=1000, candidates=1), budget=4.0)
        assert post.diagnostics.interrupted == "budget"
        assert not post.diagnostics.ok
        assert "of 1000 paths were not climbed" in post.diagnostics["objective"].advice


def test_a_second_fit_of_the_same_shapes_compiles_nothing(rng, compiled):
    bayes.fit(gaussian, target(4, rng), Pathfinder(), seed=0)
    del compiled[:]
    post = bayes.fit(gaussian, target(4, rng), Pathfinder(paths=5, elbo_draws=7), seed=1)
    assert compiled == []
    assert post.diagnostics.ok


@pytest.fixture(scope="module")
def post():
    x = np.linspace(-2, 2, 30)
    y = 1.0 + 2.0 * x + np.random.default_rng(0).normal(size=30)
    return bayes.fit(regression, {"x": x, "y": y}, Pathfinder(), seed=0)


class TestWhatItTells:
    def test_a_run_of_few_draws_is_none_to_trust(self):
        with pytest.warns(bayes.ConvergenceWarning):
            few = bayes.fit(normal_mean, Y, Pathfinder(draws=10), seed=0)
        assert few.draws("mu").shape == (1, 10)
        assert not few.diagnostics.ok

    def test_checks_of_moves_can_be_saved(self, rng, tmp_path):
        """In thirty dimensions draws are moved, too; what that says is plain JSON."""
        moved = bayes.fit(gaussian, target(30, rng, 1.0), Pathfinder(), seed=1)
        moved.save(tmp_path / "p")
        assert bayes.load(tmp_path / "p").diagnostics.ok

    def test_about_its_paths(self, post):
        info = post.method.info
        assert len(info["elbo_by_path"]) == len(info["highest_by_path"]) == 8
        assert info["evaluations"] > 8
        assert len(info["objective"]) == 8
        assert info["route"] == "psis"
        assert info["not_converged"] == ""

    def test_how_draws_were_chosen(self, post):
        assert post.method.info["importance"]["candidates"] == 4000
        group = post.data["importance"]
        assert dict(group.sizes) == {"candidate": 4000}
        assert set(group.data_vars) == {"lp", "log_q"}
        assert {"lp", "log_q"} <= set(post.data["sample_stats"].data_vars)
        chosen = set(post.data["sample_stats"]["lp"].values.ravel())
        assert chosen <= set(group["lp"].values)

    def test_all_of_it_survives_a_file(self, post, tmp_path):
        post.save(tmp_path / "p")
        loaded = bayes.load(tmp_path / "p")
        for group in ("approximation", "importance", "posterior", "sample_stats"):
            assert set(loaded.data[group].data_vars) == set(post.data[group].data_vars)
            for name, value in post.data[group].data_vars.items():
                np.testing.assert_array_equal(loaded.data[group][name], value)
                assert loaded.data[group][name].dims == value.dims
        assert loaded.method.info == post.method.info
        assert loaded.diagnostics.ok == post.diagnostics.ok
        assert str(loaded.diagnostics.verdict) == str(post.diagnostics.verdict)

    def test_coordinates_of_the_approximation_are_named(self, post):
        names = [str(name) for name in post.data["approximation"]["unconstrained"].values]
        assert names == ["intercept", "slope", "sigma"]
