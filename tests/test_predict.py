"""Predictions against exact moments; new rows, other orders of levels, unseen levels."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import scipy.stats as st

import bayes

SHORT = bayes.NUTS(chains=2, warmup=200, draws=200)
QUICK = bayes.HMC(chains=2, warmup=50, draws=200)  # compiles faster; for draws of any quality

pytestmark = pytest.mark.filterwarnings("ignore::bayes.ConvergenceWarning")


def frame_of(codes, **columns):
    return pd.DataFrame({"group": pd.Categorical(codes), **columns})


def varying(group, x, n_group, y=None):
    """Centred intercepts by group and one slope; the sum for each row is kept, too."""
    mu = numpyro.sample("mu", dist.Normal(0, 3))
    tau = numpyro.sample("tau", dist.HalfNormal(1))
    slope = numpyro.sample("slope", dist.Normal(0, 1))
    with numpyro.plate("group", n_group):
        effect = numpyro.sample("effect", dist.Normal(mu, tau))
    mean = numpyro.deterministic("mean", effect[group] + slope * x)
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(mean, 0.5), obs=y)


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(0)
    codes = np.repeat(["ash", "elm", "oak"], 6)
    x = rng.normal(size=18)
    level = {"ash": -2.0, "elm": 0.0, "oak": 2.0}
    y = np.array([level[c] for c in codes]) + 0.7 * x + 0.5 * rng.normal(size=18)
    return frame_of(codes, x=x, y=y)


@pytest.fixture(scope="module", params=[None, "auto"], ids=["centred", "auto"])
def post(request, frame):
    return bayes.fit(varying, frame, SHORT, reparam=request.param, seed=4)


# ------------------------------------------------------------ against exact results


def conjugate(x, y):
    """y ~ N(a + b x, 0.8), a and b ~ N(0, 2): the predictive distribution is normal."""
    coef = numpyro.sample("coef", dist.Normal(0, 2).expand([2]).to_event(1))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(coef[0] + coef[1] * x, 0.8), obs=y)


@pytest.fixture(scope="module")
def line():
    rng = np.random.default_rng(2)
    x = rng.normal(size=12)
    data = {"x": x, "y": 1 - 0.5 * x + 0.8 * rng.normal(size=12)}
    return data, bayes.fit(conjugate, data, bayes.NUTS(warmup=300, draws=1500), seed=1)


def test_predictions_have_the_exact_moments(line):
    """Four points, mean and variance: each |z| < 4.5, false alarms 8 x 7e-6 = 5e-5."""
    data, post = line
    new = np.array([-2.0, 0.0, 1.0, 3.0])
    draws = post.predict({"x": new}, seed=3)["posterior_predictive"]["y"]
    design = np.stack([np.ones(12), data["x"]], axis=1)
    covariance = np.linalg.inv(design.T @ design / 0.64 + np.eye(2) / 4)
    mean = covariance @ design.T @ data["y"] / 0.64
    points = np.stack([np.ones(4), new], axis=1)
    spread = np.einsum("ij,jk,ik->i", points, covariance, points) + 0.64
    error = (draws - points @ mean) / np.sqrt(spread)
    import arviz_stats

    for power, exact in ((1, 0.0), (2, 1.0)):
        moment = error**power
        mcse = arviz_stats.mcse(moment.values, method="mean", chain_axis=0, draw_axis=1)
        z = (moment.mean(("chain", "draw")).values - exact) / mcse
        assert np.abs(z).max() < 4.5


def test_observed_argument_that_is_required_may_be_left_out(line):
    _, post = line
    frame = pd.DataFrame({"x": [0.0, 1.0]}, index=["p", "q"])
    tree = post.predict(frame)
    assert tree["posterior_predictive"]["y"]["row"].values.tolist() == ["p", "q"]
    both = post.predict(frame.assign(y=[5.0, np.nan]))
    assert (
        tree["posterior_predictive"]
        .to_dataset()
        .identical(both["posterior_predictive"].to_dataset())
    )


def test_program_that_computes_with_its_observed_argument():
    def program(y):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        with numpyro.plate("row", len(y)):
            numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    post = bayes.fit(program, {"y": np.array([0.3, -0.5, 1.0])}, QUICK)
    assert post.predict({}, seed=1)["posterior_predictive"]["y"].shape == (2, 200, 3)
    assert post.predict({"y": np.zeros(5)})["posterior_predictive"]["y"].shape == (2, 200, 5)


def test_default_is_the_data_of_the_fit(line):
    data, post = line
    tree = post.predict(seed=7)
    assert tree["posterior_predictive"]["y"].shape == (4, 1500, 12)
    post.extend("posterior_predictive", seed=7)
    found = post.data["posterior_predictive"].to_dataset()
    assert found.identical(tree["posterior_predictive"].to_dataset())
    np.testing.assert_array_equal(tree["constant_data"]["x"], data["x"])


def test_same_seed_same_bits(line):
    _, post = line
    draw = [post.predict({"x": np.ones(2)}, seed=s)["posterior_predictive"]["y"] for s in (1, 1, 2)]
    assert draw[0].identical(draw[1])
    assert not np.array_equal(draw[0], draw[2])


# ------------------------------------------------------------------------- categories


def test_levels_may_come_in_another_order(post):
    x = np.array([0.0, 1.0, 2.0])
    same = frame_of(["ash", "elm", "oak"], x=x)
    other = same.copy()
    other["group"] = pd.Categorical(["ash", "elm", "oak"], categories=["oak", "ash", "elm"])
    plain = same.assign(group=["ash", "elm", "oak"])
    listed = {"group": ["ash", "elm", "oak"], "x": x}
    expected = post.predict(same, seed=1)
    for data in (other, plain, listed):
        found = post.predict(data, seed=1)
        for group in ("posterior_predictive", "predictions"):
            assert found[group].to_dataset().identical(expected[group].to_dataset())
    effect = post.draws("effect").values + post.draws("slope").values[..., None] * x
    np.testing.assert_allclose(expected["predictions"]["mean"], effect, rtol=1e-9)
    assert "effect" not in expected["predictions"]


def test_one_level_of_the_fit_is_enough(post):
    mean = post.predict(frame_of(["oak"], x=[0.0]))["predictions"]["mean"].values[..., 0]
    np.testing.assert_allclose(mean, post.draws("effect").sel(group="oak").values, rtol=1e-9)


def test_unseen_level_is_refused_by_name_and_row(post):
    new = frame_of(["oak", "yew", "ash", "yew"], x=np.zeros(4)).set_index(pd.Index(list("pqrs")))
    with pytest.raises(bayes.DataError, match=r"'group'.*not seen: 'yew' \(rows 'q', 's'\)"):
        post.predict(new)
    with pytest.raises(bayes.DataError, match="not seen: 'yew'"):
        post.predict({"group": ["yew"], "x": [0.0]})
    with pytest.raises(bayes.DataError, match="not seen: 0, 1"):
        post.predict({"group": np.array([0, 1]), "x": np.zeros(2)})
    with pytest.raises(bayes.SettingsError, match="new_groups is 'refuse' or 'sample'"):
        post.predict(new, new_groups="draw")


def test_unseen_level_is_drawn_from_its_prior_and_the_known_ones_stay(post):
    new = frame_of(["yew", "oak", "ash", "ivy"], x=np.zeros(4))
    tree = post.predict(new, seed=5, new_groups="sample")
    effect = tree["predictions"]["effect"]
    assert effect["group"].values.tolist() == ["ash", "elm", "oak", "ivy", "yew"]
    np.testing.assert_allclose(effect.values[..., :3], post.draws("effect").values, rtol=1e-9)
    # Given each draw's hyperparameters the new effects are normal: Kolmogorov-Smirnov at 1e-5.
    mu, tau = (post.draws(n).values[..., None] for n in ("mu", "tau"))
    z = ((effect.values[..., 3:] - mu) / tau).ravel()
    assert st.kstest(z, "norm").pvalue > 1e-5
    assert abs(np.corrcoef(z.reshape(-1, 2).T)[0, 1]) < 4.5 / np.sqrt(len(z) / 2)
    mean = tree["predictions"]["mean"].values
    rows = effect.sel(group=["yew", "oak", "ash", "ivy"]).values
    np.testing.assert_allclose(mean, rows, rtol=1e-9)
    noise = ((tree["posterior_predictive"]["y"].values - mean) / 0.5).ravel()
    assert st.kstest(noise, "norm").pvalue > 1e-5


def test_more_groups_by_number_are_new_groups_too():
    data = {
        "group": np.array([0, 0, 1, 1]),
        "x": np.array([0.0, 1, 0, 1]),
        "n_group": 2,
        "y": np.arange(4.0),
    }
    post = bayes.fit(varying, data, QUICK)
    new = {"group": np.array([0, 2]), "x": np.zeros(2)}
    with pytest.raises(bayes.DataError, match=r"'group' is used as an index.*size 2"):
        post.predict(new)
    with pytest.raises(bayes.DataError, match=r"'effect' has 3 elements.*new_groups='sample'"):
        post.predict({**new, "n_group": 3})
    found = post.predict({**new, "n_group": 3}, new_groups="sample")["predictions"]["effect"]
    np.testing.assert_array_equal(found.values[..., :2], post.draws("effect").values)


# ------------------------------------------------------------------------------ rows


def schools(sigma, y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    with numpyro.plate("school", sigma.shape[0]):
        theta = numpyro.sample("theta", dist.Normal(mu, 0.7))
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


@pytest.fixture(scope="module", params=[None, "auto"], ids=["centred", "auto"])
def schools_post(request):
    frame = pd.DataFrame({"sigma": [1.0, 2, 1, 2], "y": [4.0, 2, 0, 1]}, index=list("ABCD"))
    return bayes.fit(schools, frame, SHORT, reparam=request.param)


def test_effects_of_new_rows_are_drawn_anew(schools_post):
    tree = schools_post.predict({"sigma": np.ones(3)}, seed=1)
    theta = tree["predictions"]["theta"].values
    z = (theta - schools_post.draws("mu").values[..., None]) / 0.7
    assert z.shape == (2, 200, 3)
    assert st.kstest(z.ravel(), "norm").pvalue > 1e-5


def test_rows_with_labels_are_matched_by_them(schools_post):
    new = pd.DataFrame({"sigma": [1.0, 1.0, 1.0]}, index=["D", "new", "B"])
    theta = schools_post.predict(new)["predictions"]["theta"]
    old = schools_post.draws("theta")
    np.testing.assert_allclose(theta.sel(school="D"), old.sel(school="D"), rtol=1e-9)
    np.testing.assert_allclose(theta.sel(school="B"), old.sel(school="B"), rtol=1e-9)
    z = (theta.sel(school="new").values - schools_post.draws("mu").values) / 0.7
    assert st.kstest(z.ravel(), "norm").pvalue > 1e-5
    assert "predictions" not in schools_post.predict({"sigma": np.ones(4)}).children


def test_parameter_of_another_size_is_not_drawn_from_its_prior():
    def program(x, y=None):
        weight = numpyro.sample("weight", dist.Normal(0, 1).expand([x.shape[1]]).to_event(1))
        with numpyro.plate("row", x.shape[0]):
            numpyro.sample("y", dist.Normal(x @ weight, 1), obs=y)

    rng = np.random.default_rng(0)
    post = bayes.fit(program, {"x": rng.normal(size=(5, 2)), "y": rng.normal(size=5)}, QUICK)
    with pytest.raises(bayes.ShapeError, match=r"'weight' has shape \(3,\).*\(2,\) in the fit"):
        post.predict({"x": np.ones((4, 3))})
    with pytest.raises(bayes.ShapeError, match="'x' had another number of dimensions"):
        post.predict({"x": np.ones(4)})


def test_elements_that_the_prior_draws_jointly_are_not_drawn_apart():
    def program(x, y=None):
        covariance = jnp.exp(-((x[:, None] - x) ** 2)) + 1e-6 * jnp.eye(len(x))
        f = numpyro.sample("f", dist.MultivariateNormal(jnp.zeros(len(x)), covariance))
        with numpyro.plate("row", len(x)):
            numpyro.sample("y", dist.Normal(f, 1), obs=y)

    x = np.array([0.0, 1, 2])
    post = bayes.fit(program, {"x": x, "y": np.sin(x)}, QUICK)
    with pytest.raises(bayes.UnsupportedModelError, match=r"'f'.*all elements of it jointly"):
        post.predict({"x": np.linspace(0, 1, 5)})


# --------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": [0.0, np.nan]}, bayes.DataError, "'x'.*NaN.*row 1"),
        ({"x": [0.0, np.inf]}, bayes.DataError, "'x' has infinite values: row 1"),
        ({"x": [0.0, 1.0, 2.0]}, bayes.ShapeError, "shapes do not fit"),
        ({"group": [None, "oak"]}, bayes.DataError, "'group'.*missing"),
    ],
)
def test_bad_new_data_name_column_and_row(post, change, error, message):
    with pytest.raises(error, match=message):
        post.predict({"group": pd.Categorical(["ash", "oak"]), "x": [0.0, 1.0]} | change)


def test_what_the_fit_had_must_be_given(post):
    with pytest.raises(bayes.DataError, match="needs 'x'"):
        post.predict(frame_of(["oak"]))

    def program(x, offset=None, y=None):
        a = numpyro.sample("a", dist.Normal(0, 1))
        mean = a * x + (0.0 if offset is None else offset)
        with numpyro.plate("row", x.shape[0]):
            numpyro.sample("y", dist.Normal(mean, 1), obs=y)

    x = np.array([1.0, 2.0, 4.0])
    post = bayes.fit(program, {"x": x, "offset": 100 * x, "y": 100 * x}, QUICK)
    with pytest.raises(bayes.DataError, match=r"the fit had 'offset'.*or None"):
        post.predict({"x": x})
    y = post.predict({"x": x, "offset": None})["posterior_predictive"]["y"]
    assert float(np.abs(y).max()) < 30


def test_settings_of_the_fit_hold_for_predictions():
    def program(x, degree=1, y=None):
        a = numpyro.sample("a", dist.Normal(0, 1))
        mean = numpyro.deterministic("mean", a * x**degree)
        with numpyro.plate("row", x.shape[0]):
            numpyro.sample("y", dist.Normal(mean, 1), obs=y)

    x = np.array([1.0, 2.0, 3.0])
    post = bayes.fit(program, {"x": x, "degree": 3, "y": x**3}, QUICK)
    mean = post.predict({"x": np.array([2.0])})["predictions"]["mean"].values[..., 0]
    np.testing.assert_allclose(mean, 8 * post.draws("a").values, rtol=1e-9)


def test_invalid_parameters_at_new_data_are_refused(schools_post):
    with pytest.raises(bayes.BayesError, match=r"'y'.*'scale'"):
        schools_post.predict({"sigma": np.array([1.0, -1.0, 2.0])})


@pytest.mark.usefixtures("unchecked")
def test_seed_is_checked(schools_post):
    with pytest.raises(bayes.SettingsError, match="seed"):
        schools_post.predict(seed=1.5)


# ---------------------------------------------------------------------------- discrete


def mixture(n, y=None):
    """Two known components; which one a row is of is a discrete site."""
    weight = numpyro.sample("weight", dist.Beta(2, 2))
    with numpyro.plate("row", n):
        member = numpyro.sample("member", dist.Bernoulli(weight))
        mean = numpyro.deterministic("mean", jnp.where(member == 1, 3.0, -3.0))
        numpyro.sample("y", dist.Normal(mean, 1), obs=y)


@pytest.fixture(scope="module")
def members():
    pytest.importorskip("funsor")
    data = {"n": 6, "y": np.array([-3.1, -2.5, 0.1, 2.9, 3.3, 3.0])}
    return data, bayes.fit(mixture, data, bayes.NUTS(chains=2, warmup=300, draws=1000))


def test_discrete_sites_at_the_fit_are_drawn_given_the_data(members):
    """Each row's membership against Bayes' rule; |z| < 4.5, false alarms 6 x 7e-6."""
    data, post = members
    found = post.predict(seed=1)["predictions"]
    weight = post.draws("weight").values[..., None]
    one = weight * st.norm.pdf(data["y"], 3, 1)
    exact = one / (one + (1 - weight) * st.norm.pdf(data["y"], -3, 1))
    error = found["member"].values - exact
    se = np.sqrt((exact * (1 - exact)).mean((0, 1)) / 2000) + 1e-4
    assert (np.abs(error.mean((0, 1))) < 4.5 * se).all()
    np.testing.assert_array_equal(found["mean"], np.where(found["member"] == 1, 3.0, -3.0))


def test_discrete_sites_of_new_rows_are_drawn_from_their_prior(members):
    _, post = members
    member = post.predict({"n": 40}, seed=2)["predictions"]["member"].values
    weight = post.draws("weight").values
    assert member.shape == (2, 1000, 40)
    error = member.mean(-1) - weight
    se = np.sqrt((weight * (1 - weight) / 40).mean() / 2000)
    assert abs(error.mean()) < 4.5 * se
    with pytest.raises(bayes.UnsupportedModelError, match="enumerated sites"):
        post.extend("log_likelihood")


def test_discrete_site_that_all_rows_share_is_known_from_the_fit():
    pytest.importorskip("funsor")

    def program(x, y=None):
        sign = numpyro.sample("sign", dist.Bernoulli(0.5))
        size = numpyro.sample("size", dist.HalfNormal(3))
        mean = jnp.where(sign == 1, 1.0, -1.0) * size * x
        with numpyro.plate("row", x.shape[0]):
            numpyro.sample("y", dist.Normal(mean, 0.5), obs=y)

    x = np.array([1.0, 2, 3, 4])
    post = bayes.fit(program, {"x": x, "y": 2 * x}, SHORT)
    y = post.predict({"x": np.array([10.0, 20.0, 30.0])})["posterior_predictive"]["y"]
    assert float(y.min()) > 15


def test_program_that_computes_with_its_data_in_python():
    def program(group, y=None):
        n = int(group.max()) + 1
        effect = numpyro.sample("effect", dist.Normal(0, 1).expand([n]).to_event(1))
        with numpyro.plate("row", group.shape[0]):
            numpyro.sample("y", dist.Normal(effect[group], 1), obs=y)

    data = {"group": np.array([0, 1, 1, 2]), "y": np.array([0.0, 1, 2, 3])}
    post = bayes.fit(program, data, QUICK)
    assert post.predict({"group": np.array([2, 0])})["posterior_predictive"].sizes["row"] == 2
    with pytest.raises(bayes.ShapeError, match=r"'effect' has shape \(2,\)"):
        post.predict({"group": np.array([1, 0])})


# ------------------------------------------------------------ under a prior of run time


@pytest.fixture(scope="module", params=["sites", "joint"])
def under_prior(request):
    from bayes.surrogates.mixtures import mixture_of_covariances
    from bayes.surrogates.priors import JointPrior, SitePriors

    x = np.linspace(-1.0, 1.0, 12)
    data = {"x": x, "y": 0.5 + x}
    model = bayes.Model(conjugate)
    if request.param == "sites":
        prior = SitePriors({"coef": dist.Normal(np.array([3.0, -1.0]), 0.1)})
    else:
        latents = model.bind(data).program.latents
        mixture = mixture_of_covariances(
            np.ones(1), np.array([[3.0, -1.0]]), 0.01 * np.eye(2)[None]
        )
        prior = JointPrior(latents, mixture)
    return data, bayes.fit(*prior.rewritten(model, data), bayes.Laplace(draws=4000), seed=0)


class TestUnderARuntimePrior:
    """The prior's numbers are the fit's; new data bring covariates only."""

    @pytest.mark.parametrize("new_x", [None, np.array([0.0, 2.0, 5.0])], ids=["same", "new"])
    def test_predictions_are_those_of_the_fit(self, under_prior, new_x):
        """4000 draws, means of 3 or 12: 4.5 errors, 1 false alarm in 10 000."""
        data, post = under_prior
        design = np.stack([np.ones(12), data["x"]], 1)
        precision = 100 * np.eye(2) + design.T @ design / 0.8**2
        mean = np.linalg.solve(precision, 100 * np.array([3.0, -1.0]) + design.T @ data["y"] / 0.64)
        found = post.predict(None if new_x is None else {"x": new_x}, seed=1)
        y = found["posterior_predictive"]["y"].values[0]
        at = np.stack([np.ones(y.shape[1]), data["x"] if new_x is None else new_x], 1)
        sd = np.sqrt(0.64 + np.einsum("ni,ij,nj->n", at, np.linalg.inv(precision), at))
        assert (np.abs(y.mean(0) - at @ mean) / sd).max() < 4.5 / np.sqrt(4000)

    def test_what_the_program_itself_needs_is_asked_for(self, under_prior):
        with pytest.raises(bayes.DataError, match="'x'"):
            under_prior[1].predict({})

    def test_rows_of_a_joint_prior_are_not_drawn_anew(self):
        """Its elements depend on each other: others than the fit's have no prior."""
        from bayes.surrogates.mixtures import mixture_of_covariances
        from bayes.surrogates.priors import JointPrior

        def rows(x, y=None):
            with numpyro.plate("row", x.shape[0]):
                z = numpyro.sample("z", dist.Normal(0, 1))
                numpyro.sample("y", dist.Normal(z + x, 1.0), obs=y)

        frame = pd.DataFrame({"x": [0.0, 1.0], "y": [0.5, 1.0]}, index=["a", "b"])
        model = bayes.Model(rows)
        mixture = mixture_of_covariances(np.ones(1), np.zeros((1, 2)), np.eye(2)[None])
        prior = JointPrior(model.bind(frame).program.latents, mixture)
        post = bayes.fit(*prior.rewritten(model, frame), "laplace", seed=0)
        same = post.predict(frame[["x"]], seed=0)
        assert same["posterior_predictive"]["y"].shape[-1] == 2
        with pytest.raises(bayes.UnsupportedModelError, match="draws all elements of it jointly"):
            post.predict(pd.DataFrame({"x": [0.0, 1.0]}, index=["b", "c"]))
        with pytest.raises(bayes.ShapeError, match="for data that need others"):
            post.predict(pd.DataFrame({"x": [0.0, 1.0, 2.0]}, index=["a", "b", "c"]))
