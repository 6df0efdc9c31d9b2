"""The ladder of approximations: right where it says ok, and honest where it is not right."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats as st
from models_for_tests import SCHOOLS_DATA, funnel, schools

import bayes
from bayes.compilation import computing
from bayes.inference.variational import VI


def linear(x, width, y=None):
    beta = numpyro.sample("beta", dist.Normal(0.0, width).to_event(1))
    numpyro.sample("y", dist.Normal(x @ beta, 1.0).to_event(1), obs=y)


def two_modes(apart):
    x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real_vector, (), (2,)))
    # Normal densities of sd 1 at +-apart; the second has a weight of e^-1.
    near, far = (-0.5 * jnp.square(x - c * apart).sum() for c in (1.0, -1.0))
    numpyro.factor("two", jnp.logaddexp(near, far - 1.0))


def flat_sum(y=None):
    a = numpyro.sample("a", dist.ImproperUniform(dist.constraints.real, (), ()))
    b = numpyro.sample("b", dist.ImproperUniform(dist.constraints.real, (), ()))
    numpyro.sample("y", dist.Normal(a + b, 1.0).expand([3]).to_event(1), obs=y)


def rising():
    scale = numpyro.sample("scale", dist.ImproperUniform(dist.constraints.positive, (), ()))
    numpyro.factor("spike", -2.0 * jnp.log(scale))


def groups_of_answers(right, n, width=1.0):
    """A logistic regression on 250 indicators: its posterior is a product of 250 of one unknown."""
    beta = numpyro.sample("beta", dist.Normal(0.0, width).expand([right.shape[0]]).to_event(1))
    numpyro.sample("right", dist.Binomial(n, logits=beta).to_event(1), obs=right)


def correlated_data(d, rng):
    """Columns of scales between 1e-3 and 1e3, all correlated."""
    scales = 10.0 ** np.linspace(-3, 3, d)
    x = (rng.normal(size=(3 * d, d)) + 2.0 * rng.normal(size=(3 * d, 1))) * scales
    width = 3.0 / scales
    y = x @ (rng.normal(size=d) / scales) + rng.normal(size=3 * d)
    sigma = np.linalg.inv(x.T @ x + np.diag(width**-2.0))
    return {"x": x, "width": width, "y": y}, sigma @ (x.T @ y), np.sqrt(np.diagonal(sigma))


def quietly(*args, **options):
    """A fit whose verdict may be bad."""
    with pytest.warns(bayes.ConvergenceWarning):
        return bayes.fit(*args, **options)


def assert_right(draws, mean, sd, info, spread=True):
    """Means within five Monte Carlo errors, sds within five of a normal's: 6e-7 an element."""
    ess = info["importance"]["ess"]
    draws = np.asarray(draws).reshape(-1, *np.shape(mean))
    assert np.all(np.abs(draws.mean(axis=0) - mean) < 5 * sd / np.sqrt(ess))
    if spread:
        assert np.all(np.abs(draws.std(axis=0) / sd - 1) < 5 / np.sqrt(2 * ess))


@pytest.mark.parametrize("d", [5, 30, 100])
def test_normal_posteriors_with_badly_scaled_columns(d, rng):
    data, mean, sd = correlated_data(d, rng)
    post = bayes.fit(linear, data, method="vi", seed=1)
    assert post.diagnostics.ok, post.diagnostics
    assert post.method.info["route"] == "psis"
    assert_right(post.draws("beta"), mean, sd, post.method.info)
    normal = post.data["approximation"]
    np.testing.assert_allclose((normal["mean"].values - mean) / sd, 0.0, atol=0.05)


def test_two_modes_have_their_weights():
    """The first has 1 / (1 + e^-1) = 0.731; the error of a share is less than 0.5 / sqrt(ess)."""
    post = bayes.fit(two_modes, {"apart": np.asarray(4.0)}, VI(paths=8), seed=0)
    assert post.diagnostics.ok, post.diagnostics
    share = (post.draws("x").values[..., 0] > 0).mean()
    ess = post.method.info["importance"]["ess"]
    assert abs(share - 1 / (1 + np.exp(-1))) < 2.5 / np.sqrt(ess)
    near = post.draws("x").values[0]
    near = near[near[:, 0] > 0]
    assert np.all(np.abs(near.mean(axis=0) - 4.0) < 5 / np.sqrt(ess / 2))


def schools_posterior():
    """Means and sds of mu and tau by quadrature: the effects integrated out in closed form."""
    mu, tau = np.linspace(-25, 30, 500), np.geomspace(1e-4, 300, 2000)
    grid, scale = np.meshgrid(mu, tau, indexing="ij")
    lp = st.norm.logpdf(grid, 0, 5) + st.halfcauchy.logpdf(scale, 0, 5) + np.log(scale)
    for y, sigma in zip(SCHOOLS_DATA["y"], SCHOOLS_DATA["sigma"], strict=True):
        lp += st.norm.logpdf(y, grid, np.sqrt(sigma**2 + scale**2))
    weights = np.exp(lp - lp.max())
    weights /= weights.sum()
    means = [(weights * v).sum() for v in (grid, scale)]
    sds = [
        np.sqrt((weights * (v - m) ** 2).sum()) for v, m in zip((grid, scale), means, strict=True)
    ]
    return means, sds


def test_eight_schools_are_non_centred_by_default():
    post = bayes.fit(schools, SCHOOLS_DATA, method="vi", seed=0)
    assert post.diagnostics.ok, post.diagnostics
    assert post.problem.reparametrised == ("theta",)
    means, sds = schools_posterior()
    for name, mean, sd in zip(("mu", "tau"), means, sds, strict=True):
        assert_right(post.draws(name), mean, sd, post.method.info, spread=False)


def test_centred_eight_schools_are_not_ok():
    post = quietly(schools, SCHOOLS_DATA, method="vi", seed=0, reparam={})
    assert post.problem.reparametrised == ()
    assert not post.diagnostics.ok


def test_a_funnel_is_followed_only_without_its_centre():
    post = bayes.fit(bayes.Model(funnel, allow_prior=True), {}, method="vi", seed=0)
    assert post.diagnostics.ok, post.diagnostics
    assert_right(post.draws("scale"), 0.0, 3.0, post.method.info)
    centred = quietly(bayes.Model(funnel, allow_prior=True), {}, method="vi", seed=0, reparam={})
    assert not centred.diagnostics.ok


@pytest.mark.parametrize("seed", range(3))
def test_a_direction_that_nothing_bounds_is_not_ok(seed):
    assert not quietly(
        flat_sum, {"y": np.array([1.0, 2, 3])}, method="vi", seed=seed
    ).diagnostics.ok


def test_a_density_that_rises_without_bound_is_not_ok():
    post = quietly(bayes.Model(rising, allow_prior=True), {}, method="vi", seed=0)
    assert not post.diagnostics.ok


def answers(n, width):
    """Data of 250 unknowns, and their means and standard deviations by quadrature."""
    rng = np.random.default_rng(0)
    right = rng.binomial(n, 1 / (1 + np.exp(-rng.normal(size=250))))
    beta = np.linspace(-8 * width, 8 * width, 20001)
    lp = right[:, None] * beta - n * np.logaddexp(0, beta) - (beta / width) ** 2 / 2
    weights = np.exp(lp - lp.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    mean = weights @ beta
    return {"right": right, "n": n, "width": width}, mean, np.sqrt(weights @ beta**2 - mean**2)


@pytest.mark.parametrize("n", [8, 2000])
def test_many_unknowns(n):
    """250, by the curvature at the mode: nearly normal, or a little skew."""
    data, mean, sd = answers(n, 1.0)
    post = bayes.fit(groups_of_answers, data, method="vi", seed=0)
    assert post.diagnostics.ok, post.diagnostics
    assert_right(post.draws("beta"), mean, sd, post.method.info)


@pytest.mark.filterwarnings("ignore::bayes.ConvergenceWarning")
@pytest.mark.parametrize("seed", range(2))
def test_many_unknowns_that_are_skew(seed, monkeypatch):
    """With a wide prior a normal at the mode is poor, and one by linear response comes next."""
    rungs = []
    respond = VI._respond
    monkeypatch.setattr(VI, "_respond", lambda *args: (rungs.append(1), respond(*args))[1])
    data, mean, sd = answers(8, 3.0)
    post = bayes.fit(groups_of_answers, data, method="vi", seed=seed)
    assert rungs
    draws = post.draws("beta").values[0]
    bias = np.abs(draws.mean(axis=0) - mean).max() / sd.min()
    assert np.isfinite(draws).all()
    assert not post.diagnostics.ok or bias < 0.3


def test_a_seed_gives_its_draws(rng):
    data, _, _ = correlated_data(5, rng)
    first, same, other = (
        bayes.fit(linear, data, VI(draws=500), seed=seed).draws("beta").values for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, same)
    assert not np.isin(other, first).any()


def steps(method, problem, between=lambda state: state):
    with computing():
        state, chunks = method.init(problem, jax.random.key(5)), []
        while not method.done(problem, state):
            state, chunk = method.step(problem, between(state))
            chunks.append(chunk)
        return method.finish(problem, state, chunks, jax.random.key(9)), len(chunks)


def flat(state):
    leaves, tree = jax.tree.flatten(state)
    return {str(i): leaf for i, leaf in enumerate(leaves)}, tree


@pytest.mark.parametrize("model", ["small", "large"])
def test_a_run_that_is_resumed_is_the_same_to_the_bit(model, tmp_path):
    rng = np.random.default_rng(2)
    if model == "small":
        program, data = schools, SCHOOLS_DATA
    else:
        program, data = groups_of_answers, {"right": rng.binomial(50, 0.4, size=250), "n": 50}
    method = VI(draws=600)
    with computing():
        problem = bayes.Model(program, reparam="auto").bind(data)
    whole, count = steps(method, problem)
    structures = []

    def through_a_file(state):
        leaves, tree = flat(state)
        structures.append(tree)
        np.savez(tmp_path / "state.npz", **leaves)
        with np.load(tmp_path / "state.npz", allow_pickle=False) as file:
            return jax.tree.unflatten(tree, [file[k] for k in leaves])

    again, _ = steps(method, problem, through_a_file)
    assert count > 3
    assert len(set(structures)) == 1, "a checkpoint needs one structure"
    for name in whole.values:
        np.testing.assert_array_equal(whole.values[name], again.values[name])
    assert whole.info == again.info


def test_a_checkpoint_is_gone_on_with(tmp_path):
    """A run that is killed in the middle leaves what the next one takes up."""
    whole = bayes.fit(schools, SCHOOLS_DATA, method="vi", seed=2)

    class Killed(Exception):
        pass

    class Short(VI):
        def step(self, problem, state):
            if int(state["stage"]) == 2:
                raise Killed
            return super().step(problem, state)

    folder = tmp_path / "run"
    with pytest.raises(Killed):
        bayes.fit(schools, SCHOOLS_DATA, Short(), seed=2, checkpoint=folder)
    assert any(folder.iterdir())
    post = bayes.fit(schools, SCHOOLS_DATA, method="vi", seed=2, checkpoint=folder)
    np.testing.assert_array_equal(post.draws("mu").values, whole.draws("mu").values)


def test_a_second_fit_of_the_same_shapes_compiles_nothing(rng):
    data, _, _ = correlated_data(5, rng)
    bayes.fit(linear, data, method="vi", seed=0)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(event) if "backend_compile" in event else None
    )
    try:
        post = bayes.fit(linear, {**data, "y": data["y"] + 1.0}, method="vi", seed=1)
    finally:
        jax.monitoring.clear_event_listeners()
    assert compiled == []
    assert post.diagnostics.ok


def test_a_budget_that_ends_at_once_has_no_draws_or_says_so():
    with pytest.raises(bayes.NoDrawsError, match="vi was stopped"):
        bayes.fit(schools, SCHOOLS_DATA, method="vi", seed=0, budget=1e-9)


def test_stopped_on_a_rung_there_are_draws_that_are_judged():
    """After every number of blocks: draws that are finite, ok only if they are right."""
    method = VI(draws=1000)
    with computing():
        problem = bayes.Model(schools, reparam="auto").bind(SCHOOLS_DATA)
        state, chunks = method.init(problem, jax.random.key(5)), []
        while not method.settled(problem, state):
            state, chunk = method.step(problem, state)
            chunks.append(chunk)
            draws = method.finish(problem, state, chunks, jax.random.key(9))
            assert draws.length > 0
            assert np.isfinite(draws.values["theta"]).all()
            assert draws.log_q is not None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"paths": 0}, "paths must be at least 1"),
        ({"paths": 1.5}, "paths must be a whole number"),
        ({"candidates": 0}, "candidates must be at least 1"),
        ({"draws": -1}, "draws must be at least 1"),
        ({"init_strategy": "median"}, "init_strategy must be one of numpyro"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message, unchecked):
    with pytest.raises(bayes.SettingsError, match=message):
        VI(**settings)


def test_what_was_found_is_on_record():
    post = bayes.fit(schools, SCHOOLS_DATA, method="vi", seed=0)
    info = post.method.info
    assert post.method.name == "vi"
    assert info["independent"]
    assert len(info["objective"]) > 1
    assert np.isfinite(info["objective"]).all()
    assert VI().draws <= info["importance"]["candidates"] <= 4 * VI().draws
    assert post.data["importance"].sizes["candidate"] == info["importance"]["candidates"]
    assert post.data["posterior"].sizes["chain"] == 1
