"""Groups of a posterior against SciPy, unconstrained draws, memory."""

import tracemalloc

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import scipy.stats as st
from numpyro import handlers
from numpyro.infer.reparam import TransformReparam

import bayes
from bayes import batches

SHORT = bayes.NUTS(chains=2, warmup=150, draws=100)
QUICK = bayes.HMC(chains=2, warmup=50, draws=100)  # compiles faster; for draws of any quality

pytestmark = pytest.mark.filterwarnings("ignore::bayes.ConvergenceWarning")


def several(x, missing, y=None, count=None, pair=None):
    """Three observed sites: masked, discrete, and with event dimensions."""
    slope = numpyro.sample("slope", dist.Normal(0, 2))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    numpyro.deterministic("twice", 2 * slope)
    with numpyro.plate("row", x.shape[0]):
        with handlers.mask(mask=~missing):
            numpyro.sample("y", dist.Normal(slope * x, sigma), obs=y)
        numpyro.sample("count", dist.Bernoulli(logits=0.3 * slope), obs=count)
        mean = jnp.stack([slope * x, jnp.zeros_like(x)], axis=-1)
        numpyro.sample("pair", dist.MultivariateNormal(mean, jnp.eye(2)), obs=pair)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(1)
    x = np.linspace(-1, 1, 7)
    y = 1.5 * x + 0.5 * rng.normal(size=7)
    missing = np.arange(7) == 2
    y[2] = np.nan
    return {
        "x": x,
        "missing": missing,
        "y": y,
        "count": rng.integers(2, size=7),
        "pair": rng.normal(size=(7, 2)),
    }


@pytest.fixture(scope="module")
def post(data):
    return bayes.fit(several, data, SHORT, seed=3).extend("log_likelihood", "log_prior")


def grouped(group, y=None):
    """Centred population of effects, one of them per level of a category."""
    mu = numpyro.sample("mu", dist.Normal(0, 3))
    tau = numpyro.sample("tau", dist.HalfNormal(1))
    with numpyro.plate("group", 3):
        effect = numpyro.sample("effect", dist.Normal(mu, tau))
    with numpyro.plate("row", group.shape[0]):
        numpyro.sample("y", dist.Normal(effect[group], 1.0), obs=y)


def awkward(y=None):
    """Supports of every kind: simplex, ordered, correlation, bounds that are latent themselves."""
    low = numpyro.sample("low", dist.Normal(0, 1))
    inside = numpyro.sample("inside", dist.Uniform(low, low + 2))
    simplex = numpyro.sample("simplex", dist.Dirichlet(jnp.ones(3)))
    base = dist.Normal(jnp.zeros(3), 1).to_event(1)
    ordered = numpyro.sample(
        "ordered",
        dist.TransformedDistribution(base, dist.transforms.OrderedTransform()),
    )
    corr = numpyro.sample("corr", dist.LKJCholesky(3, 2.0))
    spread = numpyro.sample("spread", dist.LogNormal(0, 1).expand([2, 2]).to_event(2))
    total = inside + simplex[0] + ordered.sum() + corr.sum() + spread.sum()
    numpyro.sample("y", dist.Normal(total, 1), obs=y)


# ---------------------------------------------------------------------- groups


def test_groups_have_arviz_names_dims_and_attributes(post):
    assert list(post.data.children)[:4] == [
        "posterior", "sample_stats", "observed_data", "constant_data",
    ]  # fmt: skip
    assert post.draws("slope").dims == ("chain", "draw")
    assert post.data["observed_data"]["pair"].dims == ("row", "pair_dim_1")
    assert set(post.data["constant_data"].data_vars) == {"x", "missing"}
    assert post.data["constant_data"]["x"].dims == ("row",)
    assert post.data["posterior"].attrs == {"model": "several", "method": "nuts", "seed": 3}
    assert {"diverging", "lp", "energy", "n_steps", "acceptance_rate"} <= set(
        post.data["sample_stats"].data_vars
    )


def test_log_likelihood_is_that_of_scipy_at_every_draw(post, data):
    slope = post.draws("slope").values[..., None]
    sigma = post.draws("sigma").values[..., None]
    found = post.data["log_likelihood"]
    expected = st.norm.logpdf(data["y"], slope * data["x"], sigma)
    expected[..., data["missing"]] = 0.0
    np.testing.assert_allclose(found["y"], expected, rtol=1e-10)
    counts = st.bernoulli.logpmf(data["count"], 1 / (1 + np.exp(-0.3 * slope)))
    np.testing.assert_allclose(found["count"], counts, rtol=1e-9)
    first = st.norm.logpdf(data["pair"][:, 0], slope * data["x"])
    pairs = first + st.norm.logpdf(data["pair"][:, 1])
    np.testing.assert_allclose(found["pair"], pairs, rtol=1e-10)
    assert {v: found[v].dims for v in found.data_vars} == {
        v: ("chain", "draw", "row") for v in ("y", "count", "pair")
    }


def test_log_prior_is_that_of_scipy_and_completes_the_density(post):
    prior = post.data["log_prior"]
    slope, sigma = post.draws("slope"), post.draws("sigma")
    np.testing.assert_allclose(prior["slope"], st.norm.logpdf(slope, 0, 2), rtol=1e-10)
    np.testing.assert_allclose(prior["sigma"], st.halfnorm.logpdf(sigma), rtol=1e-10)
    likelihood = post.data["log_likelihood"].to_dataset().sum("row").to_array().sum("variable")
    jacobian = np.log(sigma)  # of exp, the way from the real line to sigma
    total = prior["slope"] + prior["sigma"] + likelihood + jacobian
    np.testing.assert_allclose(total, post.data["sample_stats"]["lp"], rtol=1e-9)


def test_log_prior_is_of_the_program_as_written_also_when_reparametrised():
    data = {"group": np.array([0, 0, 1, 2]), "y": np.array([0.5, 1.0, -1.0, 2.0])}
    post = bayes.fit(grouped, data, QUICK, reparam="auto").extend("log_prior", "log_likelihood")
    prior = post.data["log_prior"]
    assert set(prior.data_vars) == {"mu", "tau", "effect"}
    mu, tau = (post.draws(n).values[..., None] for n in ("mu", "tau"))
    expected = st.norm.logpdf(post.draws("effect"), mu, tau)
    np.testing.assert_allclose(prior["effect"], expected, rtol=1e-8, atol=1e-8)
    mean = post.draws("effect").values[..., data["group"]]
    np.testing.assert_allclose(
        post.data["log_likelihood"]["y"], st.norm.logpdf(data["y"], mean, 1), rtol=1e-10
    )


def test_prior_groups_follow_the_prior(post):
    post.extend("prior", seed=5, draws=4000)
    prior, predictive = post.data["prior"], post.data["prior_predictive"]
    assert prior["slope"].shape == (1, 4000)
    assert set(prior.data_vars) == {"slope", "sigma", "twice"}
    assert predictive["pair"].dims == ("chain", "draw", "row", "pair_dim_1")
    # Kolmogorov-Smirnov at 1e-5 a test.
    assert st.kstest(prior["slope"].values[0], st.norm(0, 2).cdf).pvalue > 1e-5
    assert st.kstest(prior["sigma"].values[0], st.halfnorm.cdf).pvalue > 1e-5
    again = bayes.Posterior(post.data.copy(), post.method, post.diagnostics, post.problem)
    again.extend("prior_predictive", seed=5, draws=4000)
    assert again.data["prior_predictive"].to_dataset().identical(predictive.to_dataset())


def test_same_seed_same_bits_other_seed_others(post):
    def draw(seed):
        return post.extend("posterior_predictive", seed=seed).data["posterior_predictive"]["y"]

    first, again, other = draw(1).values, draw(1).values, draw(2).values
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_unknown_group_and_seed_are_refused(post):
    with pytest.raises(bayes.SettingsError, match="no group 'loglik'; there are log_likelihood"):
        post.extend("loglik")
    with pytest.raises(bayes.SettingsError, match="seed must be a whole number"):
        post.extend("prior", seed=-1)
    with pytest.raises(bayes.SettingsError, match="draws must be positive"):
        post.extend("prior", draws=0)


def test_improper_prior_and_factor_are_refused_with_the_reason():
    def flat(y):
        mu = numpyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
        numpyro.factor("likelihood", -0.5 * jnp.sum((y - mu) ** 2))

    post = bayes.fit(flat, {"y": np.array([0.1, 0.4, -0.2])}, QUICK)
    with pytest.raises(bayes.UnsupportedModelError, match="prior of mu is improper"):
        post.extend("prior")
    with pytest.raises(bayes.UnsupportedModelError, match=r"numpyro\.factor"):
        post.extend("log_likelihood")
    with pytest.raises(bayes.UnsupportedModelError, match="nothing to predict"):
        post.predict()


# --------------------------------------------------------------------- reading


def test_summary_has_a_row_an_element(post):
    table = post.summary()
    assert list(table.index) == ["slope", "sigma", "twice"]
    assert {"mean", "sd", "r_hat", "ess_bulk"} <= set(table.columns)
    assert list(post.summary(var_names=["sigma"]).index) == ["sigma"]


def test_draws_of_an_unknown_site_names_those_there_are(post):
    with pytest.raises(KeyError, match=r"no site 'slop'.*slope, sigma, twice"):
        post.draws("slop")


def test_repr_says_how_it_was_made_and_the_verdict(post):
    assert repr(post).startswith("Posterior of several: 2 chains of 100 draws by nuts; ")
    assert str(post.method).startswith("nuts(chains=2, warmup=150")


def test_labels_of_a_frame_reach_the_groups():
    frame = pd.DataFrame(
        {"group": pd.Categorical(list("bbac")), "y": [0.5, 1.0, -1.0, 2.0]},
        index=pd.to_datetime(["2020-01-01", "2020-01-03", "2020-02-01", "2021-01-01"]),
    )
    post = bayes.fit(grouped, frame, QUICK).extend("log_likelihood")
    assert post.draws("effect")["group"].values.tolist() == ["a", "b", "c"]
    rows = post.data["log_likelihood"]["row"].values
    assert rows.dtype.kind == "M"
    assert (rows == frame.index.values).all()


@pytest.mark.parametrize("reparam", [None, {"spread": TransformReparam()}])
def test_unconstrained_draws_lead_back_to_the_constrained_ones(reparam):
    if reparam is not None:

        def program(y=None):
            base = dist.TransformedDistribution(
                dist.Normal(jnp.zeros(2), 1), dist.transforms.ExpTransform()
            )
            spread = numpyro.sample("spread", base.to_event(1))
            numpyro.sample("y", dist.Normal(spread.sum(), 1), obs=y)
    else:
        program = awkward
    post = bayes.fit(program, {"y": np.array(1.3)}, QUICK, reparam=reparam)
    flat = post.to_unconstrained()
    assert flat.dims == ("chain", "draw", "unconstrained")
    assert flat.shape[-1] == post.problem.size == len(set(flat["unconstrained"].values))
    back = post.problem.constrain(flat.values)
    for name in post.problem.parameters:
        np.testing.assert_allclose(back[name], post.draws(name), rtol=1e-7, atol=1e-9)
    density = [post.problem.log_density(p) for p in flat.values.reshape(-1, flat.shape[-1])]
    lp = post.data["sample_stats"]["lp"].values.ravel()
    np.testing.assert_allclose(density, lp, rtol=1e-6, atol=1e-6)


# ---------------------------------------------------------------------- memory


def wide(x, y=None):
    """The intermediates of one draw are 200 times its log likelihood."""
    weight = numpyro.sample("weight", dist.Normal(0, 1).expand([200]).to_event(1))
    terms = jnp.sin(x[:, None] * weight) * jnp.cos(x[:, None] + jnp.cumsum(weight))
    with numpyro.plate("row", x.shape[0]):
        mean = jnp.sort(terms, axis=-1)[:, 17] + jnp.sort(terms, axis=-1)[:, 40]
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)


@pytest.fixture(scope="module")
def wide_post():
    x = np.linspace(0, 1, 200)
    method = bayes.HMC(chains=2, warmup=3, draws=150, trajectory_length=0.1)
    return bayes.fit(wide, {"x": x, "y": np.sin(3 * x)}, method)


@pytest.mark.parametrize("group", ["log_likelihood", "posterior_predictive"])
@pytest.mark.parametrize("budget", [4, 8, 200])
@pytest.mark.usefixtures("unchecked")  # the checks of annotations allocate, too
def test_no_more_than_the_budgeted_memory_is_used(wide_post, group, budget, monkeypatch):
    """What Python allocates and what the compiler says it takes, together."""
    memory, sizes, needs = budget * 2**20, [], []
    choose, compile_batch = batches._largest_batch, batches._compile

    def watch_choice(*args):
        sizes.append(choose(*args)[1])
        return choose(*args)

    def watch_compiler(*args):
        run, need = compile_batch(*args)
        needs.append(need)
        return run, need

    monkeypatch.setattr(batches, "_largest_batch", watch_choice)
    monkeypatch.setattr(batches, "_compile", watch_compiler)
    wide_post.problem.program.compiled.clear()
    wide_post.extend(group, memory=memory)  # compiles
    tracemalloc.start()
    wide_post.extend(group, memory=memory)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Tracing leaves a few hundred kB of Python objects, more where other tests ran before. A draw
    # takes 325 kB, all 300 at once 97 MB.
    assert peak + needs[-1] <= memory + 500_000
    assert (sizes[-1] < 256) == (budget < 200)


def test_a_result_larger_than_the_memory_is_refused_with_its_size(wide_post):
    with pytest.raises(MemoryError, match=r"log likelihood takes 0\.458 MiB, more than memory"):
        wide_post.extend("log_likelihood", memory=2**18)
    with pytest.raises(MemoryError, match="one draw at a time"):
        wide_post.extend("log_likelihood", memory=300 * 200 * 8 + 1000)
    with pytest.raises(MemoryError, match="prediction takes"):
        wide_post.predict(memory=1000)
    with pytest.raises(MemoryError, match="prior takes"):
        wide_post.extend("prior", memory=1000)


def test_batches_do_not_change_the_result(wide_post):
    whole = wide_post.extend("log_likelihood").data["log_likelihood"]["y"].values
    batched = wide_post.extend("log_likelihood", memory=2**20).data["log_likelihood"]["y"].values
    np.testing.assert_allclose(batched, whole, rtol=1e-12)
