"""The ladder of a surrogate: what a network proposes is checked, corrected or given to NUTS."""

import dataclasses
import json
import sys
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats as st
from models_for_tests import funnel

import bayes
from bayes.compilation import computing
from bayes.diagnostics.ranks import mean_ess
from bayes.inference.continuation import Continuation
from bayes.method import fitting_methods, method_by_name, methods
from bayes.surrogates.mixtures import Mixture, mixture_of_covariances
from bayes.surrogates.surrogate import Proposal, Surrogate


@dataclasses.dataclass(frozen=True, eq=False)
class Stub(Surrogate):
    """A surrogate whose network has learned one mixture by heart."""

    name: ClassVar[str] = "stub_surrogate"

    mixture: Mixture = dataclasses.field(kw_only=True, repr=False)
    info: dict[str, Any] = dataclasses.field(kw_only=True, default_factory=dict)

    def propose(self, problem, words):
        return Proposal(self.mixture, self.info)

    def verify(self, problem):
        if problem.size != self.mixture.size:
            raise bayes.UnsupportedModelError(f"trained for {self.mixture.size} unknowns")

    def mixtures(self, inputs):
        raise NotImplementedError

    @property
    def reference(self):
        return bayes.Model(linear).bind(DATA)

    @property
    def components(self):
        return self.mixture.components


def linear(x, y=None):
    beta = numpyro.sample("beta", dist.Normal(0.0, 2.0).expand([x.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Normal(x @ beta, 1.0).to_event(1), obs=y)


def two_modes(apart):
    """Normal densities of sd 1 at +-apart, with weights of 0.7 and 0.3."""
    x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real_vector, (), (2,)))
    near, far = (dist.Normal(c * apart, 1.0).log_prob(x).sum() for c in (1.0, -1.0))
    numpyro.factor("two", jnp.logaddexp(near + jnp.log(0.7), far + jnp.log(0.3)))


D = 4


def line():
    """Data, mean, covariance and log evidence of a correlated conjugate regression."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, D)) + rng.normal(size=(40, 1))
    y = x @ np.array([1.0, -1.0, 0.5, 0.0]) + rng.normal(size=40)
    sigma = np.linalg.inv(x.T @ x + np.eye(D) / 4)
    evidence = st.multivariate_normal.logpdf(y, np.zeros(40), np.eye(40) + 4 * x @ x.T)
    return {"x": x, "y": y}, sigma @ x.T @ y, sigma, float(evidence)


DATA, MEAN, SIGMA, EVIDENCE = line()
SD = np.sqrt(np.diagonal(SIGMA))


def one(mean, sigma):
    return mixture_of_covariances(np.ones(1), np.asarray(mean)[None], np.asarray(sigma)[None])


def off(shift=0.0, stretch=1.0, **settings):
    """The exact posterior of the regression, moved by standard deviations and stretched."""
    return Stub(mixture=one(MEAN + shift * SD, stretch**2 * SIGMA), **settings)


def assert_right(post):
    """Means and sds within five Monte Carlo errors: 1e-6 for each of eight numbers at most."""
    assert post.diagnostics.ok, post.diagnostics
    draws = post.draws("beta").values
    known = post.method.info.get("importance")
    ess = mean_ess(draws) if known is None else known["ess"]
    assert np.all(np.abs(draws.mean(axis=(0, 1)) - MEAN) < 5 * SD / np.sqrt(ess))
    assert np.all(np.abs(draws.std(axis=(0, 1)) / SD - 1) < 5 / np.sqrt(2 * np.minimum(ess, 1e3)))


def quietly(*args, **options):
    """A fit whose verdict is bad."""
    with pytest.warns(bayes.ConvergenceWarning):
        post = bayes.fit(*args, **options)
    assert not post.diagnostics.ok
    return post


# ------------------------------------------------------------------------- rungs


def test_an_exact_mixture_is_resampled_as_it_is():
    post = bayes.fit(linear, DATA, off(), seed=1)
    assert_right(post)
    info = post.method.info
    assert info["route"] == "psis"
    assert info["surrogate"]["route"] == "psis"
    assert info["rounds"] == 0
    assert not info["scores_matched"]
    assert info["importance"]["khat"] < 0.5
    assert post.draws("beta").shape == (1, 2000, D)
    assert post.method.reason == "asked for"
    assert "refine" not in post.method.settings


def test_a_mixture_beside_the_posterior_is_moved_by_its_weights():
    post = bayes.fit(linear, DATA, off(shift=0.5, stretch=0.8), seed=1)
    assert_right(post)
    assert post.method.info["surrogate"]["route"] == "adapted"
    assert post.method.info["rounds"] > 0
    assert not post.method.info["scores_matched"]


def test_three_standard_deviations_off_are_mended():
    """In every unknown, where these are correlated: further along the narrow directions."""
    post = bayes.fit(linear, DATA, off(shift=3.0), seed=1)
    assert_right(post)
    assert post.method.info["surrogate"]["route"] == "adapted"


@pytest.mark.parametrize(("shift", "stretch"), [(50.0, 0.05), (50.0, 20.0), (0.0, 0.01)])
def test_a_hopeless_mixture_is_fitted_by_scores(shift, stretch):
    post = bayes.fit(linear, DATA, off(shift=shift, stretch=stretch), seed=1)
    assert_right(post)
    info = post.method.info
    assert info["surrogate"]["route"] == "adapted"
    assert info["scores_matched"]
    assert "scores" in info["surrogate"]["reason"]
    # Random numbers of the second adaptation are its own.
    assert len(info["objective"]) >= 4


def test_what_no_mixture_follows_is_for_nuts():
    """A funnel of ten unknowns: chains come from the draws, whatever they find."""
    stub = Stub(mixture=one(np.zeros(10), np.eye(10)), info={"distance": 1.0})
    post = quietly(bayes.Model(funnel, allow_prior=True), {}, stub, seed=0)
    info = post.method.info
    assert info["route"] == "nuts"
    assert info["surrogate"]["route"] == "nuts"
    assert info["surrogate"]["distance"] == 1.0
    assert "could not correct" in info["surrogate"]["reason"]
    assert "surrogate" not in info["approximation"]
    assert "log_evidence" not in info
    assert "refine" not in post.method.settings
    assert post.data["posterior"].sizes["chain"] == 4
    assert "rhat" in {check.name for check in post.diagnostics.checks}
    json.dumps(info)


def skew(y=None):
    """A banana: y = 0 of b - a^2 with noise of 0.1, where a and b are N(0, 1)."""
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(b - a * a, 0.02), obs=y)


def test_chains_from_a_poor_mixture_are_of_the_posterior():
    """A thin banana is beyond one normal; E[b] by quadrature, to five errors: 6e-7."""
    stub = Stub(mixture=one(np.array([0.5, 0.3]), 0.3 * np.eye(2)))
    post = bayes.fit(skew, {"y": np.asarray(0.0)}, stub, seed=0)
    assert post.method.info["surrogate"]["route"] == "nuts"
    assert post.diagnostics.ok, post.diagnostics
    a = np.linspace(-4, 4, 4001)[:, None]
    b = a * a + 0.02 * np.linspace(-6, 6, 241)
    lp = -0.5 * (a * a + b * b + ((b - a * a) / 0.02) ** 2)
    weights = np.exp(lp - lp.max())
    weights /= weights.sum()
    mean = (weights * b).sum()
    sd = np.sqrt((weights * (b - mean) ** 2).sum())
    draws = post.draws("b").values
    ess = mean_ess(draws[..., None])[0]
    assert abs(draws.mean() - mean) < 5 * sd / np.sqrt(ess)


@pytest.mark.parametrize("broken", ["a component", "its weight"])
def test_components_without_a_covariance_are_left_out(broken):
    good = one(MEAN, SIGMA)
    parts = [np.concatenate([p, p]) for p in (good.log_weights, *good[1:])]
    parts[0] = np.log([0.3, 0.7])
    if broken == "a component":
        parts[2][1] = [-400.0, 400.0, 0.0, 0.0]
    else:
        parts[0][1] = np.nan
    post = bayes.fit(linear, DATA, Stub(mixture=Mixture(*parts)), seed=1)
    assert_right(post)
    assert post.method.info["components"] == 1
    assert post.method.info["surrogate"]["route"] == "psis"


def test_a_mixture_without_any_component_is_refused():
    nowhere = Mixture(np.zeros(1), np.full((1, D), np.nan), np.zeros((1, D)), np.zeros((1, D, D)))
    with pytest.raises(bayes.NoDrawsError, match="stub_surrogate gives these data no component"):
        bayes.fit(linear, DATA, Stub(mixture=nowhere), seed=1)


def test_two_modes_keep_their_weights():
    """A share of 0.7; its error is sqrt(0.21 / ess). Five of them: 6e-7."""
    apart = 6.0
    means = apart * np.array([[-1.0, -1.0], [1.0, 1.0]])
    exact = mixture_of_covariances(np.array([0.3, 0.7]), means, np.stack([np.eye(2)] * 2))
    post = bayes.fit(two_modes, {"apart": np.asarray(apart)}, Stub(mixture=exact), seed=0)
    assert post.diagnostics.ok, post.diagnostics
    assert post.method.info["surrogate"]["route"] == "psis"
    share = (post.draws("x").values[..., 0] > 0).mean()
    assert abs(share - 0.7) < 5 * np.sqrt(0.21 / post.method.info["importance"]["ess"])
    assert abs(post.method.info["log_evidence"]) < 5 * post.method.info["log_evidence_error"]


def test_two_modes_that_were_proposed_too_narrow_keep_their_weights():
    """Scores mend the larger one, weights the other; shares to five errors, as above."""
    means = 6.0 * np.array([[-1.0, -1.0], [1.0, 1.0]])
    narrow = mixture_of_covariances(np.array([0.5, 0.5]), means, np.stack([0.01 * np.eye(2)] * 2))
    post = bayes.fit(two_modes, {"apart": np.asarray(6.0)}, Stub(mixture=narrow), seed=0)
    assert post.diagnostics.ok, post.diagnostics
    info = post.method.info
    assert info["surrogate"]["route"] == "adapted"
    share = (post.draws("x").values[..., 0] > 0).mean()
    assert abs(share - 0.7) < 5 * np.sqrt(0.21 / info["importance"]["ess"])
    assert abs(info["log_evidence"]) < 5 * info["log_evidence_error"]


def test_few_draws_have_as_many_candidates_as_it_takes():
    """They are resampled, not given to NUTS for being few."""
    post = bayes.fit(linear, DATA, off(draws=50), seed=1)
    assert post.method.info["surrogate"]["route"] == "psis"
    assert post.method.info["importance"]["ess"] > 400
    assert post.draws("beta").shape == (1, 50, D)


# --------------------------------------------------------------------------- raw


def test_raw_draws_are_of_the_mixture_and_not_resampled():
    """Draws are of the network's own normal to five errors, and no weight was used."""
    stub = off(route="raw", draws=4000)
    post = bayes.fit(linear, DATA, stub, seed=1)
    assert post.diagnostics.ok, post.diagnostics
    assert post.method.info["route"] == "raw"
    assert post.method.info["surrogate"]["route"] == "raw"
    assert "importance" not in post.method.info
    draws = post.draws("beta").values[0]
    assert draws.shape == (4000, D)
    assert len(np.unique(draws, axis=0)) == 4000
    np.testing.assert_allclose((draws.mean(axis=0) - MEAN) / SD, 0.0, atol=5 / np.sqrt(4000))
    log_q = post.data["sample_stats"]["log_q"].values[0]
    exact = st.multivariate_normal.logpdf(draws, MEAN, SIGMA)
    np.testing.assert_allclose(log_q, exact, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("wrong", "check"),
    [({"shift": 1.0}, "mean_shift"), ({"stretch": 1.5}, "sd_shift"), ({"stretch": 0.3}, "khat")],
)
def test_raw_draws_that_are_wrong_are_not_ok(wrong, check):
    post = quietly(linear, DATA, off(route="raw", **wrong), seed=1)
    assert post.method.info["route"] == "raw"
    failed = {c.name for c in post.diagnostics.checks if not c.passed}
    assert failed & {check, "khat"}


UNLIKE = [
    ({"distance": 5.0, "distance_limit": 3.0}, "5 away from those of training, beyond 3"),
    ({"distance": float("nan"), "distance_limit": 3.0}, "nan away from those of training"),
    ({"out_of_range": ["n is 900, at most 50 in training"]}, "n is 900, at most 50 in training"),
]


@pytest.mark.parametrize(("info", "words"), UNLIKE)
def test_data_unlike_those_of_training_are_said_of_raw_draws(info, words):
    post = quietly(linear, DATA, off(route="raw", info=info), seed=1)
    failed = [c for c in post.diagnostics.checks if not c.passed]
    assert [c.name for c in failed] == ["objective"]
    assert words in failed[0].advice
    assert "route='ladder'" in failed[0].advice


@pytest.mark.parametrize(("info", "words"), UNLIKE)
def test_they_are_a_note_where_the_ladder_has_judged(info, words):
    post = bayes.fit(linear, DATA, off(info=info), seed=1)
    assert post.diagnostics.ok, post.diagnostics
    (note,) = post.method.info["surrogate"]["notes"]
    assert words in note
    assert post.method.info.get("out_of_distribution", False) is ("distance" in info)


def test_data_like_those_of_training_have_no_note():
    info = {"distance": 2.0, "distance_limit": 3.0, "out_of_range": []}
    found = bayes.fit(linear, DATA, off(route="raw", info=info), seed=1).method.info
    assert found["surrogate"]["notes"] == []
    assert found["out_of_distribution"] is False


# ----------------------------------------------------------------------- evidence


@pytest.mark.filterwarnings("ignore::bayes.ConvergenceWarning")
@pytest.mark.parametrize(
    "stub",
    [
        off(),
        off(shift=3.0),
        off(shift=50.0, stretch=20.0),
        off(route="raw", stretch=1.2),
        off(route="raw", shift=0.2, stretch=1.1),
    ],
)
def test_the_evidence_is_right(stub):
    """Within four errors, of which each is below 0.1: false alarms in 6e-5 of each."""
    info = bayes.fit(linear, DATA, stub, seed=2).method.info
    assert 0 < info["log_evidence_error"] < 0.1
    assert abs(info["log_evidence"] - EVIDENCE) < 4 * info["log_evidence_error"]


def test_an_evidence_of_poor_ratios_is_not_given():
    info = quietly(linear, DATA, off(route="raw", stretch=0.3), seed=1).method.info
    assert "log_evidence" not in info


def test_the_error_of_the_evidence_is_its_spread():
    """Over 40 seeds: a chi-squared ratio between its 1e-4 and 1 - 1e-4 quantiles."""
    found = []
    with computing():
        problem = bayes.Model(linear).bind(DATA)
        stub = off(route="raw", stretch=1.3, draws=500)
        for seed in range(40):
            state = stub.init(problem, jax.random.key(seed))
            state, chunk = stub.step(problem, state)
            info = stub.finish(problem, state, [chunk], jax.random.key(1)).info
            found.append((info["log_evidence"], info["log_evidence_error"]))
    values, errors = np.asarray(found).T
    ratio = 39 * values.var(ddof=1) / np.mean(errors**2)
    assert st.chi2.ppf(1e-4, 39) < ratio < st.chi2.ppf(1 - 1e-4, 39)


# ----------------------------------------------------------------------- settings


def test_settings_are_json_and_tell_networks_apart():
    first, same, other = off().settings(), off().settings(), off(shift=1e-9).settings()
    assert json.loads(json.dumps(first)) == first
    assert first["draws"] == 2000
    assert first["route"] == "ladder"
    assert first == same
    assert first["mixture"] != other["mixture"]
    assert len(first["mixture"]) < 100


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"route": "psis"}, "route must be one of ladder, raw, got 'psis'"),
        ({"draws": 0}, "draws must be at least 1"),
        ({"paths": 3}, "Stub has no setting paths; there are draws, route, prior"),
        ({"prior": {"mu": 1}}, "prior is what with_prior"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message, unchecked):
    with pytest.raises(bayes.SettingsError, match=message):
        off().replace(**settings)


def test_settings_are_replaced():
    stub = off()
    changed = stub.replace(draws=77, route="raw")
    assert (changed.draws, changed.route) == (77, "raw")
    assert changed.mixture is stub.mixture
    assert stub.draws == 2000


def test_a_prior_at_run_time_makes_another_problem():
    """The posterior is that under the prior of the call, to five errors; the record says so."""
    own = off()
    stub = own.with_prior({"beta": dist.Normal(0.0, 0.1).expand([D]).to_event(1)})
    assert own.prior is None
    post = bayes.fit(linear, DATA, stub, seed=0)
    sigma = np.linalg.inv(DATA["x"].T @ DATA["x"] + np.eye(D) / 0.01)
    mean, sd = sigma @ DATA["x"].T @ DATA["y"], np.sqrt(np.diagonal(sigma))
    ess = post.method.info["importance"]["ess"]
    draws = post.draws("beta").values[0]
    assert np.all(np.abs(draws.mean(axis=0) - mean) < 5 * sd / np.sqrt(ess))
    assert post.method.settings["prior"] == stub.prior.describe()
    json.dumps(post.method.settings)
    plain = bayes.fit(linear, DATA, stub.with_prior(None), seed=0)
    assert_right(plain)
    assert "prior" not in plain.method.settings


def centred(y=None):
    """Group means about a mean: normal, and in other coordinates where they are non-centred."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("group", 3):
        theta = numpyro.sample("theta", dist.Normal(mu, 0.5))
        numpyro.sample("y", dist.Normal(theta, 1.0), obs=y)


class NonCentred(Stub):
    """A surrogate that was trained with reparam="auto"."""

    @property
    def reference(self):
        with computing():
            return bayes.Model(centred, reparam="auto").bind({"y": np.arange(3.0)})


def test_the_reparametrisation_of_training_is_that_of_the_fit():
    """Exact in these coordinates: k-hat is low; means to five errors, 2e-6 for all four of them.

    As the program is written the mixture is another distribution.
    """
    y = np.array([1.0, 3.0, -1.0])
    # theta = mu + z / 2, in the order of mu and the three z.
    design = np.concatenate([np.ones((3, 1)), 0.5 * np.eye(3)], axis=1)
    sigma = np.linalg.inv(np.eye(4) + design.T @ design)
    mean = sigma @ design.T @ y
    stub = NonCentred(mixture=one(mean, sigma))
    assert stub.reparam == "auto"
    post = bayes.fit(centred, {"y": y}, stub, seed=1)
    assert post.diagnostics.ok, post.diagnostics
    assert post.problem.reparametrised == ("theta",)
    info = post.method.info
    assert info["surrogate"]["route"] == "psis"
    assert info["importance"]["khat"] < 0.5
    away = np.concatenate(
        [
            [post.draws("mu").values.mean() - mean[0]],
            post.draws("theta").values.mean(axis=(0, 1)) - design @ mean,
        ]
    )
    sds = np.sqrt(np.concatenate([[sigma[0, 0]], np.diagonal(design @ sigma @ design.T)]))
    assert np.all(np.abs(away) < 5 * sds / np.sqrt(info["importance"]["ess"]))
    # Told otherwise, it is as told, and the mixture is no longer exact.
    other = bayes.fit(centred, {"y": y}, stub, seed=1, reparam={})
    assert other.problem.reparametrised == ()
    assert other.method.info["surrogate"]["route"] != "psis"


def test_the_number_of_components_of_a_prior_is_whole(unchecked):
    with pytest.raises(bayes.SettingsError, match="components must be at least 1"):
        off().with_prior({}, components=0)


# -------------------------------------------------------------------- look-up


def test_learned_methods_are_not_found_by_name():
    assert "stub_surrogate" not in methods()
    for name in ("stub_surrogate", "distribution_transformer", "simulation_bank"):
        with pytest.raises(
            bayes.SettingsError, match=r"is learned .* bayes\.amortize\(model, data"
        ):
            method_by_name(name)
    with pytest.raises(bayes.SettingsError, match=r"bayes\.DistributionTransformer\(\)"):
        bayes.fit(linear, DATA, "distribution_transformer")
    assert "stub_surrogate" not in fitting_methods(bayes.Model(linear).bind(DATA))


def test_a_problem_that_it_was_not_trained_for_is_refused():
    stub = Stub(mixture=one(np.zeros(3), np.eye(3)))
    with pytest.raises(bayes.UnsupportedModelError, match="trained for 3 unknowns"):
        bayes.fit(linear, DATA, stub)


# ----------------------------------------------------------------- asked refinement


def test_what_is_asked_for_comes_before_what_the_ladder_would_do():
    post = bayes.fit(linear, DATA, off(), seed=1, refine="nuts")
    assert_right(post)
    assert post.method.info["surrogate"]["route"] == "nuts"
    assert post.method.settings["refine"] == "nuts"
    assert abs(post.method.info["log_evidence"] - EVIDENCE) < 0.1
    post = bayes.fit(linear, DATA, off(route="raw", stretch=1.3), seed=1, refine="psis")
    assert_right(post)
    assert post.method.info["surrogate"]["route"] == "psis"


# ------------------------------------------------------- interruption, checkpoints


FUNNEL = bayes.Model(funnel, allow_prior=True)
WIDE = Stub(mixture=one(np.array([0.5, 0.3]), 0.3 * np.eye(2)))
BANANA = {"y": np.asarray(0.0)}


class Killed(Exception):
    """A run that ends without a word."""


def killed_after(monkeypatch, cls, blocks):
    """Let a method's class work for some blocks."""
    own, left = cls.step, [blocks]

    def step(self, problem, state):
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        return own(self, problem, state)

    monkeypatch.setattr(cls, "step", step)


@pytest.mark.parametrize(
    ("part", "blocks"), [(Stub, 1), (Stub, 4), (Continuation, 1)], ids=["first", "later", "nuts"]
)
def test_a_run_that_is_killed_on_any_rung_goes_on_to_the_bit(part, blocks, tmp_path, monkeypatch):
    options = {"method": WIDE, "seed": 3}
    whole = bayes.fit(skew, BANANA, **options)
    assert whole.method.info["route"] == "nuts"
    with monkeypatch.context() as patch:
        killed_after(patch, part, blocks)
        with pytest.raises(Killed):
            bayes.fit(skew, BANANA, checkpoint=tmp_path / "cut", **options)
    assert (tmp_path / "cut" / "manifest.json").exists()
    assert (tmp_path / "cut" / "nuts").exists() == (part is Continuation)
    again = bayes.fit(skew, BANANA, checkpoint=tmp_path / "cut", **options)
    np.testing.assert_array_equal(again.draws("b").values, whole.draws("b").values)
    assert again.method.info["surrogate"] == whole.method.info["surrogate"]
    third = bayes.fit(skew, BANANA, checkpoint=tmp_path / "cut", **options)
    np.testing.assert_array_equal(third.draws("b").values, whole.draws("b").values)


def test_a_run_without_chains_makes_no_folder_for_them(tmp_path):
    first = bayes.fit(linear, DATA, off(), seed=1, checkpoint=tmp_path / "run")
    assert not (tmp_path / "run" / "nuts").exists()
    again = bayes.fit(linear, DATA, off(), seed=1, checkpoint=tmp_path / "run")
    np.testing.assert_array_equal(first.draws("beta").values, again.draws("beta").values)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    bayes.fit(linear, DATA, off(), seed=1, checkpoint=tmp_path / "run")
    with pytest.raises(bayes.FileError, match="settings differ"):
        bayes.fit(linear, DATA, off(shift=0.1), seed=1, checkpoint=tmp_path / "run")


def test_a_budget_that_ends_at_once_has_no_draws():
    with pytest.raises(bayes.NoDrawsError, match="stub_surrogate was stopped"):
        bayes.fit(linear, DATA, off(), seed=1, budget=1e-9)


def test_a_budget_used_up_before_the_chains_leaves_the_draws_with_their_verdict(monkeypatch):
    module = sys.modules["bayes.fit"]
    own = module.drive

    def slow(*args, **options):
        return dataclasses.replace(own(*args, **options), seconds=100.0)

    monkeypatch.setattr(module, "drive", slow)
    post = quietly(skew, BANANA, WIDE, seed=3, budget=99.0)
    assert post.diagnostics.interrupted == "budget"
    assert post.method.info["surrogate"]["route"] == "raw"
    assert "khat" in {c.name for c in post.diagnostics.checks}


@pytest.mark.parametrize("stub", [off(shift=50.0, stretch=20.0), off(shift=3.0)])
def test_stopped_on_a_rung_there_are_draws_that_are_judged(stub):
    """After every number of blocks: draws that are finite, and said to be cut short."""
    with computing():
        problem = bayes.Model(linear).bind(DATA)
        state, chunks = stub.init(problem, jax.random.key(5)), []
        structures = set()
        while not stub.settled(problem, state):
            state, chunk = stub.step(problem, state)
            chunks.append(chunk)
            structures.add(str(jax.tree.structure(state)))
            draws = stub.finish(problem, state, chunks, jax.random.key(9))
            assert draws.length > 0
            assert np.isfinite(draws.values["beta"]).all()
            settled = stub.settled(problem, state)
            assert ("stopped" in draws.info["not_converged"]) is not settled
    assert len(structures) == 1, "a checkpoint needs one structure"
    for leaf in jax.tree.leaves(state):
        assert np.asarray(leaf).dtype.kind in "biuf"


def test_a_seed_gives_its_draws():
    first, same, other = (
        bayes.fit(linear, DATA, off(shift=3.0), seed=seed).draws("beta").values
        for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, same)
    assert not np.isin(other, first).any()


def test_a_second_fit_of_the_same_shapes_compiles_nothing():
    bayes.fit(linear, DATA, off(), seed=0)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(event) if "backend_compile" in event else None
    )
    try:
        bayes.fit(linear, {**DATA, "y": DATA["y"] + 0.01}, off(), seed=1)
    finally:
        jax.monitoring.clear_event_listeners()
    assert compiled == []
