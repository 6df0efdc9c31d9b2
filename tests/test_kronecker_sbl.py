"""Kronecker sparse Bayesian learning by ``fit``: recovery, modes of all priors, settings."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models_for_tests import sparse, sparse_problem
from numpyro.distributions import constraints
from numpyro.infer.util import log_density
from scipy.stats import multivariate_normal

import bayes
from bayes.compilation import computing
from bayes.distributions import KroneckerLinear, KroneckerNormal
from bayes.inference.kronecker.collapsed import Collapsed

SBL = bayes.KroneckerSBL
SMALL = sparse_problem(1, sizes=(7, 8, 9), length=9, kept=2)
# A problem this small has few observations a variance, which the verdict says.
few = pytest.mark.filterwarnings("ignore::bayes.ConvergenceWarning")


def flat(factors, y=None):
    """Improper flat priors, as maximum likelihood of the second kind has."""
    improper = functools.partial(dist.ImproperUniform, constraints.positive, ())
    scales = [
        numpyro.sample(f"gamma_{i}", improper(event_shape=(h.shape[1],)))
        for i, h in enumerate(factors)
    ]
    noise = numpyro.sample("noise", improper(event_shape=()))
    x = numpyro.sample("x", KroneckerNormal(scales))
    numpyro.sample("y", KroneckerLinear(factors, x, noise), obs=y)


def program_of(prior, noise_prior=None, power=1):
    """Priors of variances, or of their roots, along all axes."""
    noise_prior = dist.HalfNormal(5.0) if noise_prior is None else noise_prior

    def program(factors, y=None):
        scales = [
            numpyro.sample(f"s_{i}", prior.expand([h.shape[1]]).to_event(1))
            for i, h in enumerate(factors)
        ]
        x = numpyro.sample("x", KroneckerNormal([s**2 for s in scales] if power == 2 else scales))
        noise = numpyro.sample("noise", noise_prior)
        numpyro.sample("y", KroneckerLinear(factors, x, noise), obs=y)

    return program


# ----------------------------------------------------------------------- recovery


def test_coefficients_support_and_noise_of_the_papers_problem():
    """3375 coefficients, 27 of them not zero, 1440 observations at 15 dB.

    Problems and seeds are fixed, so that this is no matter of chance. Over these the errors
    together are 1.2 times those of least squares on the true support, 1.53 times in the worst.
    The noise has a standard error of 1.9 % by its 1440 observations: 10 % are five of them.
    """
    errors, oracles = [], []
    for seed in range(5):
        problem = sparse_problem(seed)
        post = bayes.fit(sparse, problem.data, "kronecker_sbl", seed=seed)
        assert post.diagnostics.ok
        errors.append(problem.error(post.moments("x")["mean"].values))
        oracles.append(problem.oracle())
        assert errors[-1] < 1.6 * oracles[-1]
        assert post.structure.noise == pytest.approx(problem.noise, rel=0.1)
        kept, sure = post.structure.support(), post.structure.support(0.9999)
        assert kept[problem.places].all()
        assert kept.sum() < 60
        assert sure.sum() == sure[problem.places].sum() >= 22
    assert np.sum(errors) < 1.5 * np.sum(oracles)


@few
@pytest.mark.parametrize("update", ["mm", "am", "ksbl", "svd"])
def test_all_updates_find_the_support(update):
    """With flat priors; the monotone ones never lose log density, up to rounding."""
    method = SBL(update=update, sweeps=300, tolerance=1e-4)
    post = bayes.fit(flat, SMALL.data, method, seed=0)
    assert SMALL.error(post.moments("x")["mean"].values) < 2.0 * SMALL.oracle()
    assert post.structure.support()[SMALL.places].all()
    assert post.structure.noise == pytest.approx(SMALL.noise, rel=0.15)
    objective = np.array(post.method.info["objective"])
    if update != "svd":
        assert np.diff(objective).min() > -1e-9 * abs(objective[-1])
    # The scale of a product is in its last factor, and is that of the evidence.
    h = functools.reduce(np.kron, SMALL.factors)
    g = functools.reduce(np.kron, post.structure.relevances)
    covariance = (h * g) @ h.T + post.structure.noise**2 * np.eye(len(h))
    evidence = multivariate_normal(np.zeros(len(h)), covariance).logpdf(SMALL.y.ravel())
    assert post.structure.log_evidence == pytest.approx(evidence, abs=1e-3)
    for place in (0, 1):
        length = np.linalg.norm(post.draws(f"gamma_{place}").values[0, 0])
        assert length == pytest.approx(1.0, rel=1e-12)


PRIORS = {
    "half-Cauchy variance": (dist.HalfCauchy(1.0), None, 1),
    "half-Cauchy scale": (dist.HalfCauchy(1.0), dist.HalfCauchy(1.0), 2),
    "half-normal variance": (dist.HalfNormal(2.0), dist.Gamma(2.0, 1.0), 1),
    "half-normal scale": (dist.HalfNormal(1.0), dist.InverseGamma(2.0, 1.0), 2),
    "Gamma variance": (dist.Gamma(0.5, 0.5), None, 1),
    "Gamma scale": (dist.Gamma(1.5, 1.0), dist.Exponential(1.0), 2),
    "exponential scale": (dist.Exponential(1.0), None, 2),
    "inverse Gamma variance": (dist.InverseGamma(1.0, 0.02), None, 1),
    "inverse Gamma scale": (dist.InverseGamma(1.0, 0.1), None, 2),
}


@few
@pytest.mark.parametrize(("prior", "noise", "power"), PRIORS.values(), ids=PRIORS)
def test_the_variances_are_a_mode_of_the_programs_own_density(prior, noise, power):
    """NumPyro's log density, coefficients integrated out, does not change with any log of a site.

    Coefficients that a prior kills come back to zero slowly: a hundredth is left of a slope.
    """
    program = program_of(prior, noise, power)
    method = SBL(sweeps=2000, tolerance=1e-10)
    problem = sparse_problem(1, sizes=(5, 6), length=6, kept=2)
    post = bayes.fit(program, problem.data, method, seed=0)
    kept = [g > 0 for g in post.structure.relevances]
    found = {name: post.draws(name).values[0, 0] for name in ("s_0", "s_1", "noise")}
    for relevance, site, there in zip(post.structure.relevances, ("s_0", "s_1"), kept, strict=True):
        np.testing.assert_allclose(found[site][there] ** power, relevance[there], rtol=1e-12)
    collapsed = Collapsed(program, "x", "y")
    with computing():
        data = {"factors": [jnp.asarray(h) for h in problem.factors], "y": jnp.asarray(problem.y)}

        def density(logs):
            return log_density(collapsed, (), data, {n: jnp.exp(v) for n, v in logs.items()})[0]

        slope = jax.grad(density)({n: jnp.log(v) for n, v in found.items()})
    assert abs(float(slope["noise"])) < 1e-2
    for site, there in zip(("s_0", "s_1"), kept, strict=True):
        assert np.abs(slope[site][there]).max() < 1e-2


@few
def test_the_start_of_greatest_evidence_goes_on():
    """Without priors, with which its evidence only rises from then on."""
    post = bayes.fit(flat, SMALL.data, SBL(starts=4), seed=3)
    info = post.method.info
    evidence = info["evidence_of_starts"]
    assert len(evidence) == 4
    assert info["start"] == int(np.argmax(evidence))
    assert info["log_evidence"] >= evidence[info["start"]]
    assert info["peak_evidence"] >= info["log_evidence"]


# ----------------------------------------------------------------------- settings


WRONG = {
    "update": ({"update": "em"}, r"update must be one of mm, am, ksbl, svd, got 'em'"),
    "sweeps": ({"sweeps": 0}, "sweeps"),
    "starts": ({"starts": 0}, "starts"),
    "draws": ({"draws": 1.5}, "draws"),
    "tolerance": ({"tolerance": 0.0}, "tolerance"),
    "prune": ({"prune": 1.0}, "prune is a share between 0 and 1, got 1.0"),
    "negative prune": ({"prune": -0.1}, "prune is a share"),
    "hyper": ({"hyper": "hmc"}, "hyper is 'map', 'nuts' or a NUTS, got 'hmc'"),
    "no sampler": ({"hyper": bayes.HMC()}, "hyper is 'map', 'nuts' or a NUTS"),
}


@pytest.mark.parametrize(("settings", "words"), WRONG.values(), ids=WRONG)
@pytest.mark.usefixtures("unchecked")
def test_senseless_settings_are_refused(settings, words):
    with pytest.raises(bayes.SettingsError, match=words):
        SBL(**settings)


def test_what_svd_does_not_know_is_refused():
    def given(factors, y=None):
        s = numpyro.sample("s", dist.ImproperUniform(constraints.positive, (), event_shape=(9,)))
        x = numpyro.sample("x", KroneckerNormal([s, jnp.ones(9), jnp.ones(9)]))
        numpyro.sample("y", KroneckerLinear(factors, x, 0.5), obs=y)

    with pytest.raises(bayes.SettingsError, match=r"update='svd'.*variances gamma_0.*update='mm'"):
        bayes.fit(sparse, SMALL.data, SBL(update="svd"))
    with pytest.raises(bayes.SettingsError, match=r"update='svd' fits second moments"):
        bayes.fit(given, SMALL.data, SBL(update="svd"))


@pytest.mark.parametrize("refine", ["psis", "nuts"])
def test_refine_is_refused_with_the_reason(refine):
    with pytest.raises(bayes.SettingsError, match="needs draws with their log density, which"):
        bayes.fit(sparse, SMALL.data, SBL(), refine=refine)
