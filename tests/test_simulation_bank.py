"""A bank of simulations: neighbours become a mixture that the ladder corrects."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models_for_tests import normal_mean

import bayes
from bayes.compilation import computing
from bayes.diagnostics.ranks import mean_ess
from bayes.model import as_model
from bayes.surrogates.mixtures import mixture_of_covariances, moments
from bayes.surrogates.regression import adjusted, effective, kernel, nearest, tempered
from bayes.surrogates.simulation_bank import SimulationBank
from bayes.surrogates.simulator import Simulator
from bayes.surrogates.trained_bank import TrainedBank
from bayes.threefry import seed_key

WORDS = np.array([0, 1], np.uint32)
N = 12


def line(x, y=None):
    beta = numpyro.sample("beta", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(x @ beta, 1.0), obs=y)


def counts(x, weights, y=None):
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Poisson(rate * jnp.exp(0.1 * x) * weights.sum()), obs=y)


def mean_of_y(observed, arguments):
    return observed["y"].mean()


def train(model, data, bank, seed=0, **options):
    """As ``bayes.amortize`` does, without the global checks."""
    with computing():
        simulator = Simulator(as_model(model).replace(reparam="auto"), data)
        return bank.train(simulator, seed_key(seed), progress=False, **options)


BANK = SimulationBank(simulations=5000, neighbours=500, components=1, summaries=mean_of_y)


@functools.cache
def known():
    """A bank that looks up the sufficient statistic of a normal mean."""
    return train(normal_mean, {"n": N}, BANK)


def rows(count=12):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 2))
    y = x @ np.array([1.0, -1.0]) + rng.normal(size=12)
    return {"x": x[:count], "y": y[:count]}


@functools.cache
def learned():
    """A bank that has learned its summaries, for up to twelve rows."""
    bank = SimulationBank(simulations=5000, neighbours=300, components=2, steps=300)
    return train(line, {"x": rows()["x"]}, bank)


def proposal(bank, model, data):
    """Mean and sd of the bank's own mixture, and what it says of it."""
    with computing():
        model, data = bank.rewritten(as_model(model).replace(reparam="auto"), data)
        problem = model.bind(data)
        bank.check(problem)
        found = bank.propose(problem, WORDS)
    mean, sigma = moments(found.mixture)
    return mean, np.sqrt(np.diagonal(sigma)), found.info


def exact_mean(y, prior_mean=1.0, prior_sd=2.0):
    precision = len(y) / 1.5**2 + 1 / prior_sd**2
    return (y.sum() / 1.5**2 + prior_mean / prior_sd**2) / precision, precision**-0.5


def exact_line(data):
    sigma = np.linalg.inv(data["x"].T @ data["x"] + np.eye(2) / 4)
    return sigma @ data["x"].T @ data["y"], sigma


def assert_near(mean, sd, info, exact):
    """Within five Monte Carlo errors of the effective neighbours: 1e-6 for each number.

    Variances are inflated on purpose, by (n + 1) / (n - 2) for n of them.
    """
    n = info["effective_neighbours"]
    assert abs(mean - exact[0]) < 5 * exact[1] / np.sqrt(n)
    assert abs(sd / exact[1] - 1) < 5 / np.sqrt(2 * n) + 1.5 / (n - 2)


def assert_right(post, name, mean, sigma):
    """Means and sds within five Monte Carlo errors: 1e-6 for each number."""
    assert post.diagnostics.ok, post.diagnostics
    draws = post.draws(name).values
    importance = post.method.info.get("importance")
    ess = mean_ess(draws) if importance is None else importance["ess"]
    sd = np.sqrt(np.diagonal(sigma))
    assert np.all(np.abs(draws.mean(axis=(0, 1)) - mean) < 5 * sd / np.sqrt(ess))
    assert np.all(np.abs(draws.std(axis=(0, 1)) / sd - 1) < 5 / np.sqrt(2 * np.minimum(ess, 1e3)))


# --------------------------------------------------------------------- regression


def test_neighbours_are_those_of_a_plain_sort_over_blocks(rng, monkeypatch):
    monkeypatch.setattr("bayes.surrogates.regression._BLOCK", 64)
    summaries = rng.normal(size=(300, 3)).astype(np.float32)
    query = rng.normal(size=3).astype(np.float32)
    found = nearest(summaries, query, 20)
    distances = np.linalg.norm(summaries - query, axis=1)
    assert np.array_equal(found.index, np.argsort(distances)[:20])
    assert np.allclose(found.distance, np.sort(distances)[:20], rtol=1e-5)


def test_kernel_weights_fall_to_zero_and_equal_distances_weigh_the_same():
    assert np.allclose(kernel(np.array([0.0, 1.0, 2.0])), np.array([4.0, 3.0, 0.0]) / 7)
    assert np.array_equal(kernel(np.zeros(4)), np.full(4, 0.25))
    assert np.array_equal(kernel(np.ones(4)), np.full(4, 0.25))


def test_adjusted_neighbours_are_closer_to_the_posterior_than_plain_ones(rng):
    """A linear relation with normal errors: the adjustment is exact, rejection is five times worse.

    Of adjusted draws mean and sd lie within five Monte Carlo errors: a false alarm in 1e6.
    """
    s = rng.normal(size=(20_000, 2))
    x = s @ np.array([[1.0], [-2.0]]) + 0.5 * rng.normal(size=(20_000, 1))
    query = np.array([1.0, 1.5])
    found = nearest(s.astype(np.float32), query.astype(np.float32), 1000)
    weights, plain = kernel(found.distance), x[found.index]
    moved = adjusted(plain, s[found.index] - query, weights)
    n = effective(weights)

    def of(draws):
        mean = weights @ draws
        return mean.item() + 2.0, np.sqrt(weights @ np.square(draws - mean)).item() / 0.5 - 1

    assert abs(of(moved)[0]) < 5 * 0.5 / np.sqrt(n)
    assert abs(of(moved)[1]) < 5 / np.sqrt(2 * n)
    assert abs(of(plain)[0]) > 5 * abs(of(moved)[0])
    assert abs(of(plain)[1]) > 5 * abs(of(moved)[1])


def test_residuals_spread_as_they_do_at_the_data(rng):
    """Their sd is exp(s): 1 at the data, and on average 1.3 among neighbours on one side.

    Five Monte Carlo errors of the sd and of the regression's value at the data, whose residuals,
    logs of squares, have an sd of 2.2: a false alarm in 1e6.
    """
    s = rng.uniform(0.0, 0.6, size=(4000, 1))
    x = np.exp(s) * rng.normal(size=(4000, 1))
    weights = np.full(4000, 1 / 4000)
    error = np.hypot(1 / np.sqrt(2 * 4000), 0.5 * 2.2 * 2 / np.sqrt(4000))
    assert abs(adjusted(x, s, weights).std() - 1.0) < 5 * error
    assert x.std() > 1.3


def test_summaries_that_do_not_vary_change_nothing(rng):
    x = rng.normal(size=(50, 2))
    assert np.array_equal(adjusted(x, np.zeros((50, 3)), np.full(50, 0.02)), x)


def test_prior_ratios_are_tempered_where_few_draws_would_be_left(rng):
    weights, ratios = np.full(1000, 1e-3), rng.normal(size=1000)
    mild, power = tempered(weights, ratios, 50.0)
    assert power == 1.0
    assert np.allclose(mild, np.exp(ratios) / np.exp(ratios).sum(), rtol=1e-10)
    hard, power = tempered(weights, 1e4 * ratios, 50.0)
    assert 0.0 < power < 1.0
    assert effective(hard) == pytest.approx(50.0, rel=1e-6)


# ---------------------------------------------------------------------- proposals


@pytest.mark.parametrize("shift", [-3.0, 0.0, 4.0])
def test_the_proposal_is_the_posterior_of_a_normal_mean(shift):
    y = np.random.default_rng(1).normal(1.0 + shift, 1.5, size=N)
    mean, sd, info = proposal(known(), normal_mean, {"n": N, "y": y})
    assert_near(mean[0], sd[0], info, exact_mean(y))
    assert info["distance"] < info["distance_limit"]
    assert info["out_of_range"] == []


def test_another_prior_is_a_matter_of_weights():
    """With two rows both priors matter; forgetting the own one would be 0.3 sd off, twice as much
    as is let pass.
    """
    settings = dataclasses.replace(BANK, simulations=20_000, neighbours=2000)
    bank = train(normal_mean, {"n": 2}, settings)
    data = {"n": 2, "y": np.array([-2.5, -1.5])}
    exact = exact_mean(data["y"], 0.0, 1.0)
    mean, sd, info = proposal(bank.with_prior({"mu": dist.Normal(0.0, 1.0)}), normal_mean, data)
    assert info["prior_power"] == 1.0
    assert_near(mean[0], sd[0], info, exact)
    assert info["effective_neighbours"] > 700
    assert abs(proposal(bank, normal_mean, data)[0][0] - exact[0]) > 0.2 * exact[1]


def test_the_ladder_is_right_under_a_prior_where_no_neighbour_is():
    y = np.random.default_rng(2).normal(1.0, 1.5, size=N)
    far = mixture_of_covariances(np.ones(1), np.full((1, 1), 6.0), np.full((1, 1, 1), 0.04))
    other = known().with_prior(far)
    *_, info = proposal(other, normal_mean, {"n": N, "y": y})
    assert 0.0 < info["prior_power"] < 1.0
    post = bayes.fit(normal_mean, {"n": N, "y": y}, other, seed=0)
    mean, sd = exact_mean(y, 6.0, 0.2)
    assert_right(post, "mu", mean, np.full((1, 1), sd**2))


def test_learned_summaries_lead_to_the_exact_posterior():
    data = rows()
    post = bayes.fit(line, data, learned(), seed=0)
    assert_right(post, "beta", *exact_line(data))
    info = post.method.info["surrogate"]
    assert info["route"] in ("psis", "adapted")
    assert info["distance"] < info["distance_limit"]


def test_data_sets_of_any_size_are_looked_up_in_one_bank():
    """Raw widths follow the number of rows, and the ladder is right for each."""
    few, many = rows(3), rows()
    post = bayes.fit(line, few, learned(), seed=0)
    assert_right(post, "beta", *exact_line(few))
    narrow, wide = proposal(learned(), line, many)[1], proposal(learned(), line, few)[1]
    assert np.all(wide > 1.5 * narrow)
    # Exact ones differ by two to four; a bank that did not know the rows would not tell them apart.
    assert "rows" in proposal(learned(), line, doubled(many))[2]["out_of_range"][0]


def doubled(data):
    return {name: np.concatenate([value, value]) for name, value in data.items()}


def test_data_unlike_those_of_the_bank_are_told():
    y = np.random.default_rng(3).normal(40.0, 1.5, size=N)
    info = proposal(known(), normal_mean, {"n": N, "y": y})[2]
    assert info["distance"] > 3 * info["distance_limit"]
    with pytest.warns(bayes.ConvergenceWarning, match="away from those of training"):
        bayes.fit(normal_mean, {"n": N, "y": y}, known().replace(route="raw"), seed=0)


def test_mixtures_of_a_batch_are_those_of_each(rng):
    data = [rows(), rows()]
    data[1]["y"] = data[1]["y"] + 1.0
    with computing():
        inputs = [learned().ground.inputs(as_model(line).bind(d)) for d in data]
        batch = jax.tree.map(lambda *v: np.stack(v), *inputs)
        found = learned().mixtures(batch)
        one = [learned().propose(as_model(line).bind(d), np.zeros(1, np.uint32)) for d in data]
    assert found.means.shape == (2, 2, 2)
    for i, each in enumerate(one):
        mean, sigma = moments(each.mixture)
        all_means, sigmas = moments(found)
        assert np.allclose(all_means[i], mean, atol=1e-4 * np.sqrt(sigma.max()))
        assert np.allclose(sigmas[i], sigma, rtol=1e-3)


def test_data_sets_that_are_not_finite_have_no_mixture():
    with computing():
        inputs = learned().ground.inputs(as_model(line).bind(rows()))
        inputs = inputs._replace(tables=(np.full_like(inputs.tables[0], np.nan),))
        found = learned().mixtures(jax.tree.map(lambda v: np.asarray(v)[None], inputs))
    assert np.isnan(found.means).all()


def test_amortize_holds_a_bank_against_simulations():
    """With a sufficient statistic the bank is all but exact, and passes its global checks."""
    trained = bayes.amortize(normal_mean, {"n": N}, BANK, seed=0)
    assert isinstance(trained, TrainedBank)
    assert trained.global_checks is not None
    assert trained.global_checks.ok, trained.global_checks.verdict
    assert trained.training["simulations"] == 5000


# ----------------------------------------------------------------- given summaries


def test_given_summaries_see_observed_values_and_arguments_as_the_program_does():
    seen = []

    def summaries(observed, arguments):
        seen.append((observed["y"].dtype, sorted(arguments), arguments["weights"].shape))
        centre = (observed["y"] * arguments["x"]).mean() / arguments["weights"].sum()
        return jnp.stack([observed["y"].mean(), centre])

    x = np.linspace(-1, 1, 30)
    data = {"x": x, "weights": np.array([1.0, 2.0])}
    settings = SimulationBank(simulations=2000, neighbours=100, summaries=summaries)
    bank = train(counts, data, settings)
    assert all(d.kind == "i" for d, _, _ in ((np.dtype(d), 0, 0) for d, _, _ in seen))
    assert all(names == ["weights", "x"] for _, names, _ in seen)
    assert all(shape == (2,) for *_, shape in seen)
    y = np.random.default_rng(0).poisson(6.0, size=30)
    with computing():
        inputs = bank.ground.inputs(as_model(counts).bind({**data, "y": y}))
        found = bank._queries(jax.tree.map(lambda v: np.asarray(v)[None], inputs))[0]
    wanted = np.array([y.mean(), (y * x).mean() / 3.0])
    assert np.allclose(found * bank.spread + bank.centre, wanted, rtol=1e-5)


def test_given_summaries_know_one_number_of_rows():
    def summaries(observed, arguments):
        return jnp.linalg.lstsq(arguments["x"], observed["y"])[0]

    data = {"x": rows()["x"]}
    bank = train(line, data, SimulationBank(simulations=2000, neighbours=100, summaries=summaries))
    assert proposal(bank, line, rows())[2]["out_of_range"] == []
    told = proposal(bank, line, rows(6))[2]["out_of_range"]
    assert len(told) == 1
    assert "'y' has 6 rows" in told[0]
    # What is proposed is too narrow then, and corrected all the same.
    assert_right(bayes.fit(line, rows(6), bank, seed=0), "beta", *exact_line(rows(6)))


# ------------------------------------------------------------------------- course


def test_the_same_seed_gives_the_same_bank_to_the_bit():
    settings = SimulationBank(simulations=600, neighbours=100, components=1, steps=20)
    data = {"x": rows()["x"]}
    one, same = (train(line, data, settings) for _ in range(2))
    for name, array in one.parts()[0].items():
        assert np.array_equal(array, same.parts()[0][name])
    assert one.settings() == same.settings()
    assert one.limit == same.limit
    bank = SimulationBank(simulations=600, neighbours=100, summaries=mean_of_y)
    zero, other = (train(normal_mean, {"n": N}, bank, seed) for seed in (0, 1))
    assert not np.array_equal(zero.positions, other.positions)
    assert zero.settings() != other.settings()


def test_a_budget_leaves_a_smaller_bank():
    settings = SimulationBank(simulations=2_000_000, neighbours=100, summaries=mean_of_y)
    bank = train(normal_mean, {"n": N}, settings, budget=0.5)
    assert bank.training["interrupted"] == "budget"
    assert 400 <= len(bank.positions) < 2_000_000
    assert bank.training["simulations"] == len(bank.positions)


def test_log_prior_is_that_of_the_flat_space():
    """Of a gamma on the log scale, within the rounding of single precision of the whole density."""
    settings = SimulationBank(
        simulations=500, neighbours=100, summaries=lambda observed, _: observed["y"].mean()
    )
    bank = train(counts, {"x": np.linspace(-1, 1, 5), "weights": np.array([1.0, 2.0])}, settings)
    u = bank.ground.location + bank.ground.scale * bank.positions.astype(float)
    wanted = 2.0 * u[:, 0] - np.exp(u[:, 0])
    assert np.allclose(bank.log_prior, wanted, atol=1e-4)


def test_a_bank_comes_back_from_its_parts_to_the_bit(tmp_path):
    arrays, values = learned().parts()
    for name in ("positions", "summaries"):  # as a file that is mapped gives them
        np.save(tmp_path / f"{name}.npy", arrays[name])
        arrays[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    back = TrainedBank.from_parts(arrays, values, learned().ground)
    assert isinstance(back.positions, np.memmap)
    for mine, its in zip(
        proposal(learned(), line, rows())[:2], proposal(back, line, rows())[:2], strict=True
    ):
        assert np.array_equal(mine, its)
    assert back.settings() == learned().settings()


# ----------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"neighbours": 50_000}, "fewer than the 50000 simulations"),
        ({"neighbours": 0}, "neighbours"),
        ({"components": 1.5}, "components"),
        ({"summaries": 3}, "summaries is None"),
        ({"learning_rate": 2.0}, "learning_rate"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_settings_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(bayes.SettingsError, match=words):
        SimulationBank(**settings)


@pytest.mark.parametrize(
    ("summaries", "words"),
    [
        (lambda observed, arguments: observed["z"], "failed: KeyError"),
        (lambda observed, arguments: observed["y"].reshape(3, 4), r"got shape \(3, 4\)"),
        (lambda observed, arguments: (observed["y"],), "got tuple"),
        (lambda observed, arguments: observed["y"][:0], r"got shape \(0,\)"),
    ],
)
def test_summaries_that_are_no_vector_are_refused(summaries, words):
    bank = SimulationBank(simulations=500, neighbours=100, summaries=summaries)
    with pytest.raises(bayes.SettingsError, match=words):
        train(normal_mean, {"n": N}, bank)


def test_too_few_neighbours_for_the_slopes_are_refused():
    bank = SimulationBank(simulations=500, neighbours=60, summaries=lambda o, a: o["y"])
    with pytest.raises(bayes.SettingsError, match="12 summaries of 1 unknowns need 70"):
        train(normal_mean, {"n": N}, bank)
    with pytest.raises(bayes.SettingsError, match="neighbours=5"):
        known().replace(neighbours=5)


def test_another_program_is_refused():
    def wider(n, y=None):
        mu = numpyro.sample("mu", dist.Normal(1.0, 3.0))
        with numpyro.plate("row", n):
            numpyro.sample("y", dist.Normal(mu, 1.5), obs=y)

    with pytest.raises(bayes.UnsupportedModelError, match="not the program"):
        bayes.fit(wider, {"n": N, "y": np.arange(N) / N}, known(), seed=0)


def test_summaries_of_the_data_that_are_not_finite_are_refused():
    bank = SimulationBank(
        simulations=500, neighbours=100, summaries=lambda o, a: jnp.log(o["y"].max() + 100.0)
    )
    trained = train(normal_mean, {"n": N}, bank)
    with pytest.raises(bayes.DataError, match="not finite"):
        proposal(trained, normal_mean, {"n": N, "y": -200.0 - np.arange(N)})


def test_given_summaries_cannot_be_stored():
    with pytest.raises(bayes.SettingsError, match="cannot be saved"):
        known().parts()


def test_parts_that_do_not_fit_are_refused():
    arrays, values = learned().parts()
    ground = learned().ground
    weights = next(n for n in arrays if n.startswith("network."))
    for change, words in (
        ({"summaries": None}, "'summaries' is missing"),
        ({weights: None}, f"'{weights}' is missing"),
        ({"positions": arrays["positions"][:, :1]}, "positions"),
        ({"log_prior": arrays["log_prior"].astype(float)}, "float64"),
        ({weights: arrays[weights].T[:1]}, weights),
    ):
        changed = {n: v for n, v in {**arrays, **change}.items() if v is not None}
        with pytest.raises(bayes.FileError, match=words):
            TrainedBank.from_parts(changed, values, ground)
    for change in (
        {"sizes": None},
        {"limit": "far"},
        {"sizes": {**values["sizes"], "unknowns": 3}},
    ):
        with pytest.raises(bayes.FileError):
            TrainedBank.from_parts(arrays, {**values, **change}, ground)
