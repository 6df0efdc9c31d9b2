"""The verdict on type-II estimates: what each check finds, and that it passes what is sound."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models_for_tests import mapped, sparse, sparse_problem

import bayes
from bayes.diagnostics.checks import judge_draws
from bayes.diagnostics.type_ii import judge_type_ii
from bayes.distributions import KroneckerLinear, KroneckerNormal
from bayes.errors import ConvergenceWarning

SBL = bayes.KroneckerSBL
LABEL = "type II: intervals take variances and noise for known at their most probable values"


def fitted(program, data, **settings):
    """A fit that is to fail."""
    with pytest.warns(ConvergenceWarning):
        return bayes.fit(program, data, SBL(**settings), seed=0)


def names_of(checks):
    return {check.name for check in checks}


@pytest.fixture(scope="module")
def sound():
    problem = sparse_problem(0)
    return bayes.fit(sparse, problem.data, "kronecker_sbl", seed=0)


# ----------------------------------------------------------------------- sound fits


def test_the_papers_problem_passes_and_is_labelled(sound):
    assert sound.diagnostics.ok
    assert names_of(sound.diagnostics.checks) == {
        "finite",
        "objective",
        "evidence_kept",
        "noise_share",
        "type_ii",
        "observations_per_variance",
    }
    label = sound.diagnostics["type_ii"]
    assert label.advice.startswith(LABEL)
    assert "hyper='nuts' counts it" in label.advice
    assert 1.0 <= label.value < 1.05
    share = sound.structure.noise**2 / np.mean(sparse_problem(0).y ** 2)
    assert sound.diagnostics["noise_share"].value == pytest.approx(share)
    observed = sound.diagnostics["observations_per_variance"].value
    assert observed == pytest.approx(8 * 12 * 15 / (3 * 15 + 1))


def test_sampled_variances_are_judged_as_chains():
    problem = sparse_problem(0, sizes=(5, 6), length=3, kept=1)
    nuts = bayes.NUTS(chains=2, warmup=100, draws=100)
    post = fitted(sparse, problem.data, hyper=nuts)
    assert {"rhat", "ess_bulk", "divergences"} <= names_of(post.diagnostics.checks)
    assert "type_ii" not in names_of(post.diagnostics.checks)


# ----------------------------------------------------------------------- planted failures


def test_a_climb_that_was_cut_short():
    post = fitted(sparse, sparse_problem(0).data, sweeps=2)
    assert names_of(post.diagnostics.failed) == {"objective"}
    assert "still rising" in post.diagnostics["objective"].advice
    assert "sweeps=" in post.diagnostics["objective"].advice


def test_noise_that_goes_to_zero():
    """As many observations without noise as coefficients, none of which is zero."""
    rng = np.random.default_rng(0)
    factors = [rng.normal(size=(40, 40)) for _ in range(2)]
    y = mapped(rng.normal(size=(40, 40)), factors)
    post = fitted(sparse, {"factors": factors, "y": y}, sweeps=300, draws=10)
    check = post.diagnostics["noise_share"]
    assert not check.passed
    assert check.value < 1e-6
    assert "interpolate the observations" in check.advice


def test_noise_that_is_given_is_not_judged():
    def program(factors, y=None):
        x = numpyro.sample("x", KroneckerNormal([jnp.ones(3), jnp.ones(3)]))
        numpyro.sample("y", KroneckerLinear(factors, x, 1e-8), obs=y)

    rng = np.random.default_rng(0)
    data = {"factors": [np.eye(3), np.eye(3)], "y": rng.normal(size=(3, 3))}
    post = bayes.fit(program, data, SBL(draws=10))
    assert post.diagnostics.ok
    assert not {"noise_share", "observations_per_variance"} & names_of(post.diagnostics.checks)


def killing(factors, y=None):
    """Priors with no room for the variances that the observations show."""
    scales = [
        numpyro.sample(f"gamma_{i}", dist.Exponential(1e4).expand([h.shape[1]]).to_event(1))
        for i, h in enumerate(factors)
    ]
    noise = numpyro.sample("noise", dist.HalfNormal(10.0))
    x = numpyro.sample("x", KroneckerNormal(scales))
    numpyro.sample("y", KroneckerLinear(factors, x, noise), obs=y)


def test_priors_that_kill_what_the_observations_show():
    problem = sparse_problem(0)
    post = fitted(killing, problem.data)
    check = post.diagnostics["evidence_kept"]
    assert not check.passed
    assert "the observations show are gone" in check.advice
    assert "larger concentration" in check.advice
    # And so they are.
    assert problem.error(post.moments("x")["mean"].values) > 0.2
    # The share is of what was gained over no coefficients at all.
    info, y = post.method.info, problem.y
    power = np.mean(y**2)
    null = -0.5 * y.size * (np.log(2 * np.pi * power) + 1)
    assert info["null_evidence"] == pytest.approx(null)
    share = (info["log_evidence"] - null) / (info["peak_evidence"] - null)
    assert check.value == pytest.approx(share)
    # Priors that leave room for them keep them.
    kept = bayes.fit(sparse, problem.data, "kronecker_sbl").diagnostics["evidence_kept"]
    assert kept.value > 0.99


def test_few_observations():
    post = fitted(sparse, sparse_problem(1, sizes=(5, 6), length=9, kept=2).data)
    check = post.diagnostics["observations_per_variance"]
    assert not check.passed
    assert check.value == pytest.approx(30 / 19)
    assert "wrong slices" in check.advice


def test_variances_that_are_known_badly():
    """Twelve observations of noise and little else."""
    rng = np.random.default_rng(0)
    factors = [rng.normal(size=(3, 4)), rng.normal(size=(4, 5))]
    post = fitted(sparse, {"factors": factors, "y": rng.normal(size=(3, 4))})
    check = post.diagnostics["type_ii"]
    assert not check.passed
    assert check.value > 1.2
    assert check.advice.startswith(LABEL)
    assert check.advice.endswith("too much to leave out: hyper='nuts'")


# ----------------------------------------------------------------------- the rules


SOUND = {
    "type_ii": True,
    "not_converged": "",
    "log_evidence": 90.0,
    "peak_evidence": 100.0,
    "null_evidence": 0.0,
    "noise_share": 0.1,
    "widening": 1.05,
    "observations_per_variance": 40.0,
}


RULES = {
    "sound": ({}, set()),
    "objective": ({"not_converged": "why"}, {"objective"}),
    "half of the evidence": ({"log_evidence": 49.0}, {"evidence_kept"}),
    "more than half": ({"log_evidence": 51.0}, set()),
    "no evidence to give away": ({"log_evidence": 1.0, "peak_evidence": 9.0}, set()),
    "noise": ({"noise_share": 1e-7}, {"noise_share"}),
    "noise is not a number": ({"noise_share": float("nan")}, {"noise_share"}),
    "little noise": ({"noise_share": 1e-5}, set()),
    "widening": ({"widening": 1.21}, {"type_ii"}),
    "widening is not a number": ({"widening": float("nan")}, {"type_ii"}),
    "widening unknown": ({"widening": None}, set()),
    "few": ({"observations_per_variance": 19.0}, {"observations_per_variance"}),
    "none learned": ({"observations_per_variance": None}, set()),
    "non-finite": ({"non_finite": 3}, {"finite"}),
    "frozen": ({"frozen": ["y"]}, {"data"}),
}


@pytest.mark.parametrize(("change", "failing"), RULES.values(), ids=RULES)
def test_each_rule_by_itself(change, failing):
    found = judge_draws({"x": np.zeros((1, 5))}, {}, {**SOUND, **change})
    assert names_of(found.failed) == failing
    assert found.ok is not bool(failing)
    if failing:
        assert next(iter(failing)) in found.verdict


def test_masked_observations_are_sent_to_nuts_itself():
    masked = {**SOUND, "masked": True, "widening": None}
    found = judge_type_ii(masked)
    assert np.isnan(found["type_ii"].value)
    assert "was not assessed; method='nuts' counts it" in found["type_ii"].advice
    assert "hyper=" in judge_type_ii(SOUND)["type_ii"].advice


def test_interruption_and_notes_are_kept():
    found = judge_type_ii({**SOUND, "notes": ["a note"]}, interrupted="budget")
    assert found.interrupted == "budget"
    assert "stopped early: budget" in found.verdict
    assert found.notes == ("a note",)


# ----------------------------------------------------------------------- the report


def test_a_report_is_written_and_says_what_the_posterior_is(tmp_path):
    post = fitted(sparse, sparse_problem(1, sizes=(5, 6), length=6, kept=2).data, draws=200)
    found = post.report(tmp_path / "r.html", seed=1)
    found.save(tmp_path / "r.md")
    page, text = (tmp_path / "r.html").read_text(), (tmp_path / "r.md").read_text()
    for written in (page, text):
        assert "type II" in written
        assert "Observations for each variance" in written
        assert "could not be computed" not in written
    assert "kronecker_sbl" in text


def test_noise_alone_and_heavy_tails_are_noted():
    """The observations say it of the model, not of the fit."""
    info = {"log_evidence": -100.0, "peak_evidence": -100.0, "null_evidence": -101.0}
    (note,) = judge_type_ii(info).notes
    assert "no coefficients" in note
    limit = 3 + 5 * np.sqrt(24 / 600)
    assert judge_type_ii({"kurtosis": [limit - 0.01, 600.0]}).notes == ()
    (note,) = judge_type_ii({"kurtosis": [limit + 0.01, 600.0]}).notes
    assert "heavier tails" in note
    assert "hold some observations out" in note


@pytest.mark.filterwarnings("ignore::bayes.ConvergenceWarning")
def test_coefficients_of_heavy_tails_are_told_from_normal_ones(rng):
    """Of 900 coefficients that are all well known."""
    factors = [rng.standard_normal((40, 30)) for _ in range(2)]
    for name, x in (("normal", rng.standard_normal((30, 30))), ("t", rng.standard_t(3, (30, 30)))):
        y = factors[0] @ x @ factors[1].T + rng.standard_normal((40, 40))
        post = bayes.fit(sparse, {"factors": factors, "y": y}, bayes.KroneckerSBL(), seed=0)
        kurtosis, count = post.method.info["kurtosis"]
        assert count == 900
        assert any("heavier tails" in n for n in post.diagnostics.notes) == (name == "t")
        assert (kurtosis > 3.8) == (name == "t")
