"""What is known of the coefficients given the variances: moments, draws, maps, predictions."""

import functools

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models_for_tests import mapped, normal_regression, schools, sparse, sparse_problem

import bayes
from bayes.distributions import (
    ComplexKroneckerLinear,
    ComplexKroneckerNormal,
    KroneckerLinear,
    KroneckerNormal,
    as_pairs,
)

pytestmark = pytest.mark.filterwarnings("ignore::bayes.ConvergenceWarning")

RNG = np.random.default_rng(7)
SMALL = sparse_problem(1, sizes=(5, 6), length=6, kept=2)
METHOD = bayes.KroneckerSBL(draws=4000)


def complex_normals(*shape):
    return np.sqrt(0.5) * (RNG.normal(size=shape) + 1j * RNG.normal(size=shape))


def real(factors, count, y=None):
    """Snapshots that share variances, and functions of their coefficients."""
    scales = [
        numpyro.sample(f"gamma_{i}", dist.Gamma(1.0, 0.5).expand([h.shape[1]]).to_event(1))
        for i, h in enumerate(factors)
    ]
    noise = numpyro.sample("noise", dist.HalfNormal(3.0))
    numpyro.deterministic("ratio", noise / scales[0].max())
    with numpyro.plate("snapshot", count):
        x = numpyro.sample("x", KroneckerNormal(scales))
        numpyro.deterministic("total", x.sum((-2, -1)))
        numpyro.sample("y", KroneckerLinear(factors, x, noise), obs=y)


def complex_pairs(factors, y=None):
    scales = [
        numpyro.sample(f"gamma_{i}", dist.Gamma(1.0, 0.5).expand([h.shape[1]]).to_event(1))
        for i, h in enumerate(factors)
    ]
    noise = numpyro.sample("noise", dist.HalfNormal(3.0))
    x = numpyro.sample("x", ComplexKroneckerNormal(scales))
    numpyro.sample("y", ComplexKroneckerLinear(factors, x, noise), obs=y)


@functools.cache
def fitted(kind):
    """A posterior of small problems, with its factors and observations of shape (L, M)."""
    if kind == "one":
        return bayes.fit(sparse, SMALL.data, METHOD, seed=1), SMALL.factors, SMALL.y[None]
    if kind == "snapshots":
        problem = sparse_problem(3, sizes=(5, 7), length=6, kept=2)
        x = problem.x * np.random.default_rng(1).normal(size=(3, 1, 1))
        y = mapped(x, problem.factors) + 0.3 * np.random.default_rng(2).normal(size=(3, 5, 7))
        data = {"factors": problem.factors, "count": 3, "y": y}
        return bayes.fit(real, data, METHOD, seed=1), problem.factors, y
    rng = np.random.default_rng(4)
    factors = [rng.normal(size=s) + 1j * rng.normal(size=s) for s in ((5, 6), (7, 4))]
    x = np.zeros((6, 4), complex)
    x[np.ix_([1, 4], [0, 2])] = rng.normal(size=(2, 2)) + 1j * rng.normal(size=(2, 2))
    y = mapped(x, factors) + 0.3 * (rng.normal(size=(5, 7)) + 1j * rng.normal(size=(5, 7)))
    post = bayes.fit(complex_pairs, {"factors": factors, "y": as_pairs(y)}, METHOD, seed=1)
    return post, factors, y[None]


def dense(post, factors, y):
    """Means (L, N) and covariance by the whole dictionary, at the fitted variances."""
    known = post.structure
    h = functools.reduce(np.kron, factors)
    g = functools.reduce(np.kron, known.relevances)
    covariance_y = (h * g) @ h.conj().T + known.noise**2 * np.eye(len(h))
    gain = np.linalg.solve(covariance_y, h * g).conj().T
    return y.reshape(len(y), -1) @ gain.T, np.diag(g) - gain @ (h * g)


def numbers(post, site="x"):
    """Draws as (S, L, n_1, n_2), of complex numbers where they are pairs."""
    draws = post.draws(site).values[0]
    draws = draws[..., 0] + 1j * draws[..., 1] if post.structure.pairs else draws
    return draws if draws.ndim == 4 else draws[:, None]


KINDS = ("one", "snapshots", "complex")
every_kind = pytest.mark.parametrize("kind", KINDS)


# ----------------------------------------------------------------------- moments and draws


@every_kind
def test_moments_are_those_of_the_dense_posterior(kind):
    post, factors, y = fitted(kind)
    mean, covariance = dense(post, factors, y)
    sd = np.sqrt(np.maximum(np.diag(covariance).real, 0.0)).reshape(post.structure.sd.shape)
    shape = post.structure.mean.shape
    tolerance = 1e-10 * np.abs(mean).max()
    np.testing.assert_allclose(post.structure.mean, mean.reshape(shape), atol=tolerance, rtol=0)
    np.testing.assert_allclose(post.structure.sd, sd, atol=1e-7 * sd.max(), rtol=1e-10)
    found = post.moments("x")
    assert found.attrs["exact"]
    assert found["mean"].dims == post.draws("x").dims[2:]
    assert found["sd"].shape == found["mean"].shape
    if kind == "complex":
        parts = np.stack([post.structure.mean.real, post.structure.mean.imag], axis=-1)
        np.testing.assert_array_equal(found["mean"], parts)
        halves = np.broadcast_to(sd[..., None] * np.sqrt(0.5), found["sd"].shape)
        np.testing.assert_allclose(found["sd"], halves, atol=1e-7 * sd.max(), rtol=1e-10)
    else:
        np.testing.assert_array_equal(found["mean"], post.structure.mean)
        np.testing.assert_array_equal(found["sd"], np.broadcast_to(post.structure.sd, shape))


@every_kind
def test_variances_and_noise_of_the_draws_are_those_of_the_structure(kind):
    post, _, _ = fitted(kind)
    for place, relevance in enumerate(post.structure.relevances):
        gamma = post.draws(f"gamma_{place}").values
        assert (gamma == gamma[:, :1]).all()
        kept = relevance > 0
        np.testing.assert_allclose(gamma[0, 0][kept], relevance[kept], rtol=1e-12)
        assert (gamma[0, 0][~kept] <= 1e-8 * relevance.max()).all()
    assert post.structure.noise == pytest.approx(post.draws("noise").values[0, 0], rel=1e-12)


@every_kind
def test_draws_have_the_mean_and_covariance_of_the_dense_posterior(kind):
    """Those of the fit, and those that the structure makes.

    Whitened by the dense covariance they are standard normals: means and products of 4000 are
    within 5 standard errors, a false alarm in 1.7 million of each number compared.
    """
    post, factors, y = fitted(kind)
    mean, covariance = dense(post, factors, y)
    kept = np.diag(covariance).real > 1e-12 * np.diag(covariance).real.max()
    root = np.linalg.cholesky(covariance[np.ix_(kept, kept)])
    for draws in (
        numbers(post),
        post.structure.draws(4000, seed=5).reshape(4000, *numbers(post).shape[1:]),
    ):
        flat = draws.reshape(len(draws), len(mean), -1)
        assert (flat[:, :, ~kept] == 0).all()
        for place, centre in enumerate(mean):
            white = np.linalg.solve(root, (flat[:, place] - centre)[:, kept].T)
            parts = (
                np.sqrt(2) * np.concatenate([white.real, white.imag])
                if kind == "complex"
                else white
            )
            count = parts.shape[1]
            assert np.abs(parts.mean(axis=1)).max() < 5.0 / np.sqrt(count)
            products = parts @ parts.T / count
            errors = np.sqrt((1.0 + np.eye(len(parts))) / count)
            assert (np.abs(products - np.eye(len(parts))) < 5.0 * errors).all()
        if len(mean) > 1:  # snapshots are independent given the variances
            cross = np.mean((flat[:, 0] - mean[0]) * (flat[:, 1] - mean[1]), axis=0)[kept]
            assert (np.abs(cross) < 5.0 * np.diag(covariance)[kept] / np.sqrt(len(flat))).all()


def test_draws_of_the_structure_come_from_their_seed(unchecked):
    known = fitted("snapshots")[0].structure
    np.testing.assert_array_equal(known.draws(3, seed=2), known.draws(3, seed=2))
    assert not np.array_equal(known.draws(3, seed=2), known.draws(3, seed=3))
    assert known.draws(3).shape == (3, 3, 6, 6)
    with pytest.raises(bayes.SettingsError, match="seed"):
        known.draws(3, seed=-1)


def test_evidence_and_its_trace():
    """The log density of the observations by the whole covariance, and the objective's way."""
    post, factors, y = fitted("one")
    known = post.structure
    h, g = functools.reduce(np.kron, factors), functools.reduce(np.kron, known.relevances)
    covariance = (h * g) @ h.T + known.noise**2 * np.eye(len(h))
    _, logdet = np.linalg.slogdet(2 * np.pi * covariance)
    row = y.ravel()
    exact = -0.5 * (logdet + row @ np.linalg.solve(covariance, row))
    assert known.log_evidence == pytest.approx(exact, rel=1e-6)
    np.testing.assert_array_equal(known.trace, post.method.info["objective"])
    assert known.site == "x"


def test_deterministic_sites_are_those_of_the_draws():
    post, _, _ = fitted("snapshots")
    x, total = post.draws("x"), post.draws("total")
    assert total.dims == ("chain", "draw", "snapshot")
    np.testing.assert_allclose(total.values, x.values.sum((-2, -1)), rtol=1e-9, atol=1e-9)
    ratio = post.draws("noise").values / post.draws("gamma_0").values.max(-1)
    np.testing.assert_allclose(post.draws("ratio").values, ratio, rtol=1e-12)
    assert post.moments("total").attrs["exact"] is False


def test_the_summary_has_nothing_of_markov_chains():
    table = fitted("one")[0].summary(var_names=["noise", "x"])
    assert not {"r_hat", "ess_bulk", "ess_tail"} & set(table.columns)
    assert len(table) == 37


# ----------------------------------------------------------------------- support


def test_the_support_is_what_is_not_pruned():
    known = fitted("snapshots")[0].structure
    kept = known.support()
    assert kept.shape == (3, 6, 6)
    np.testing.assert_array_equal(kept, known.mean != 0)
    assert 0 < kept.sum() < kept.size


@every_kind
def test_the_support_by_probability_leaves_zero_out_of_intervals(kind):
    """The share of draws nearer to the mean than zero is: z < 5 in its binomial error."""
    post, _, _ = fitted(kind)
    known, draws = post.structure, numbers(post)
    mean = known.mean.reshape(draws.shape[1:])
    share = np.mean(np.abs(draws - mean) < np.abs(mean), axis=0)
    for probability in (0.5, 0.9):
        kept = known.support(probability).reshape(mean.shape)
        error = 5.0 * np.sqrt(probability * (1 - probability) / len(draws))
        assert kept.any()
        assert (share[kept] > probability - error).all()
        assert (share[~kept] < probability + error).all()


@pytest.mark.parametrize("probability", [0.0, 1.0, -0.5, 2.0])
def test_a_senseless_probability_is_refused(probability):
    with pytest.raises(bayes.SettingsError, match="probability lies between 0 and 1"):
        fitted("one")[0].structure.support(probability)


# ----------------------------------------------------------------------- maps


def maps_for(kind):
    rng = np.random.default_rng(11)
    sizes = {"one": (6, 6), "snapshots": (6, 6), "complex": (6, 4)}[kind]
    maps = [rng.normal(size=(k, n)) for k, n in zip((2, 7), sizes, strict=True)]
    return [m + 1j * rng.normal(size=m.shape) for m in maps] if kind == "complex" else maps


@every_kind
def test_maps_are_exact(kind):
    """Beside the dense posterior to rounding.

    And beside draws: |z| < 5, a false alarm in 1.7 million of each number.
    """
    post, factors, y = fitted(kind)
    maps = maps_for(kind)
    found = post.linear(*maps)
    assert found.attrs["exact"]
    assert found["mean"].dims[-2:] == ("x_map_0", "x_map_1")
    mean, covariance = dense(post, factors, y)
    whole = np.kron(*maps)
    expected = (mean @ whole.T).reshape(found["mean"].shape)
    sd = np.sqrt(np.einsum("ij,jk,ik->i", whole, covariance, whole.conj()).real)
    sd = sd.reshape(found["sd"].shape)
    assert found["sd"].dims == found["mean"].dims[-2:]
    np.testing.assert_allclose(found["mean"], expected, atol=1e-10 * np.abs(expected).max(), rtol=0)
    np.testing.assert_allclose(found["sd"], sd, rtol=1e-8)
    of_draws = mapped(numbers(post), maps)
    error = np.abs(of_draws.mean(0).reshape(expected.shape) - expected)
    assert (error < 5.0 * found["sd"].values / np.sqrt(4000)).all()
    # The relative error of a standard deviation of S draws is 1 / sqrt(2 S).
    spread = of_draws.std(0) / found["sd"].values
    assert (np.abs(spread - 1) < 5.0 / np.sqrt(2 * 4000)).all()


def test_snapshots_keep_their_dimension():
    post, _, _ = fitted("snapshots")
    found = post.linear(*maps_for("snapshots"), site="x")
    assert found["mean"].dims == ("snapshot", "x_map_0", "x_map_1")
    assert found["mean"].shape == (3, 2, 7)


@pytest.mark.parametrize("method", [bayes.KroneckerSBL(draws=50), bayes.NUTS(chains=1, draws=50)])
def test_snapshots_need_no_plate(method):
    """Their axis is none of the coefficients', though it belongs to the event."""

    def program(factors, y=None):
        prior = KroneckerNormal([np.ones(6), np.ones(6)]).expand([2]).to_event(1)
        x = numpyro.sample("x", prior)
        numpyro.sample("y", KroneckerLinear(factors, x, 0.5).to_event(1), obs=y)

    y = np.random.default_rng(6).normal(size=(2, 5, 6))
    post = bayes.fit(program, {"factors": SMALL.factors, "y": y}, method)
    found = post.linear(np.ones(6), np.eye(6))
    assert found["mean"].shape == (2, 1, 6)
    with pytest.raises(bayes.ShapeError, match="'x' has 2 axes, got 3 maps"):
        post.linear(np.eye(2), np.ones(6), np.eye(6))


def test_missing_observations_in_two_plates_of_which_one_shares_the_mask():
    """Means beside the dense posterior of what was observed; deviations are estimated."""

    def program(factors, mask, y=None):
        spread = numpyro.sample("spread", dist.Gamma(2.0, 2.0).expand([6]).to_event(1))
        with numpyro.plate("day", 2, dim=-1), numpyro.plate("person", 3, dim=-2):
            x = numpyro.sample("x", KroneckerNormal([spread, np.ones(4)]))
            numpyro.sample("y", KroneckerLinear(factors, x, 0.5, mask=mask), obs=y)

    rng = np.random.default_rng(9)
    factors = [rng.normal(size=(5, 6)), rng.normal(size=(4, 4))]
    mask = rng.random((3, 1, 5, 4)) > 0.3
    x = rng.normal(size=(3, 2, 6, 4))
    whole = mapped(x, factors) + 0.5 * rng.normal(size=(3, 2, 5, 4))
    data = {"factors": factors, "mask": mask, "y": np.where(mask, whole, np.nan)}
    post = bayes.fit(program, data, bayes.KroneckerSBL(draws=1000))
    g = np.kron(post.structure.relevances[0], np.ones(4))
    found = post.moments("x")
    assert found.attrs["exact"] is False
    assert found["mean"].dims[:2] == ("person", "day")
    maps = [np.ones((1, 6)), np.eye(4)[:3]]
    sums = post.linear(*maps)
    assert sums.attrs["exact"] is False
    assert sums["mean"].shape == sums["sd"].shape == (3, 2, 1, 3)
    draws = post.draws("x").values[0]
    for person in range(3):
        h = np.kron(*factors)[mask[person, 0].ravel()]
        gain = np.linalg.solve((h * g) @ h.T + 0.25 * np.eye(len(h)), h * g).T
        covariance = np.diag(g) - gain @ (h * g)
        for day in range(2):
            mean = gain @ whole[person, day][mask[person, 0]]
            np.testing.assert_allclose(found["mean"][person, day].values.ravel(), mean, atol=1e-5)
            exact = np.kron(*maps)
            np.testing.assert_allclose(
                sums["mean"][person, day].values.ravel(), exact @ mean, atol=1e-5
            )
            sd = np.sqrt(np.diag(covariance))
            # 64 probes tell what is added to a variance, with a standard error of 18 %.
            ratio = found["sd"][person, day].values.ravel() / sd
            assert (abs(ratio - 1) < 0.5).all()
            assert abs(np.median(ratio) - 1) < 0.1
            # |z| < 5 of 1000 draws: a false alarm in 1.7 million of each number.
            flat = draws[:, person, day].reshape(1000, -1)
            assert (abs(flat.mean(0) - mean) < 5.0 * sd / np.sqrt(1000)).all()
            assert (abs(flat.std(0) / sd - 1) < 5.0 / np.sqrt(2000)).all()


def test_a_vector_is_a_map_to_one_number():
    post, _, _ = fitted("one")
    found = post.linear(np.ones(6), np.ones(6))
    assert found["mean"].shape == (1, 1)
    assert found["mean"].item() == pytest.approx(post.structure.mean.sum(), rel=1e-12)


def test_complex_maps_of_real_coefficients_are_refused():
    with pytest.raises(bayes.ShapeError, match="maps of 'x' are complex, but its coefficients are"):
        fitted("one")[0].linear(np.eye(6), 1j * np.eye(6))


@functools.cache
def sampled():
    """Plain NUTS, which knows nothing in closed form."""
    rng = np.random.default_rng(3)
    data = {"factors": [rng.normal(size=(4, 3)), rng.normal(size=(3, 2))]}
    data |= {"y": rng.normal(size=(2, 4, 3))}

    def program(factors, y=None):
        spread = numpyro.sample("spread", dist.Gamma(4.0, 4.0).expand([3]).to_event(1))
        with numpyro.plate("snapshot", 2):
            x = numpyro.sample("x", KroneckerNormal([spread, np.ones(2)]))
            numpyro.sample("y", KroneckerLinear(factors, x, 0.7), obs=y)

    return bayes.fit(program, data, bayes.NUTS(chains=2, warmup=150, draws=200), seed=0)


@pytest.mark.parametrize("site", [None, "x"])
def test_maps_of_a_sampled_posterior_come_from_its_draws(site):
    post, rng = sampled(), np.random.default_rng(1)
    maps = [rng.normal(size=(2, 3)), rng.normal(size=(4, 2))]
    assert post.structure is None
    found = post.linear(*maps, site=site)
    assert found.attrs["exact"] is False
    assert found["mean"].dims == ("snapshot", "x_map_0", "x_map_1")
    draws = np.einsum("ai,bj,csnij->csnab", *maps, post.draws("x").values)
    np.testing.assert_allclose(found["mean"], draws.mean((0, 1)), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found["sd"], draws.std((0, 1)), rtol=1e-10)
    moments = post.moments("x")
    assert moments.attrs["exact"] is False
    np.testing.assert_allclose(moments["mean"], post.draws("x").mean(("chain", "draw")))
    spread = post.linear(np.ones((1, 3)), site="spread")
    total = post.draws("spread").values.sum(-1)
    assert spread["mean"].item() == pytest.approx(total.mean())


def test_maps_of_complex_pairs_from_draws():
    """Where the model is at hand but the method is not one of structure."""
    _, factors, y = fitted("complex")
    nuts = bayes.NUTS(chains=1, warmup=50, draws=50)
    data = {"factors": factors, "y": as_pairs(y[0])}
    maps = maps_for("complex")
    found = bayes.fit(complex_pairs, data, nuts, seed=0)
    mapped_draws = found.linear(*maps)
    draws = found.draws("x").values[0]
    expected = mapped(draws[..., 0] + 1j * draws[..., 1], maps)
    np.testing.assert_allclose(mapped_draws["mean"], expected.mean(0), rtol=1e-10)
    np.testing.assert_allclose(mapped_draws["sd"], expected.std(0), rtol=1e-10)


E6 = np.eye(6)
WRONG = {
    "none": ((), "a matrix an axis"),
    "few": ((E6,), "'x' has 2 axes, got 1 maps"),
    "many": ((E6, E6, E6), "'x' has 2 axes, got 3 maps"),
    "columns": ((E6, np.eye(5)), r"map 1 has shape \(5, 5\); axis 1 of 'x' has 6 coefficients"),
    "dimensions": ((np.ones((2, 2, 6)), E6), r"map 0 has shape \(2, 2, 6\)"),
}


@pytest.mark.parametrize(("maps", "words"), WRONG.values(), ids=WRONG)
def test_maps_that_do_not_fit_are_named(maps, words):
    with pytest.raises((bayes.ShapeError, bayes.SettingsError), match=words):
        fitted("one")[0].linear(*maps)


@pytest.mark.parametrize(
    ("maps", "words"),
    [
        ((np.eye(3),), "'x' has 2 axes, got 1 maps"),
        ((np.eye(2), np.eye(3), np.eye(2)), "'x' has 2 axes, got 3 maps"),
        ((np.eye(3), np.eye(3)), r"map 1 has shape \(3, 3\); axis 1 of 'x' has 2 coefficients"),
    ],
    ids=["few", "many", "columns"],
)
def test_maps_that_do_not_fit_a_sampled_site_are_named(maps, words):
    with pytest.raises(bayes.ShapeError, match=words):
        sampled().linear(*maps)


def test_which_site_is_meant_must_be_clear():
    def program(sigma, y=None):
        schools(sigma, y)
        numpyro.sample("other", dist.Normal(0.0, 1.0).expand([8]).to_event(1))

    data = {"sigma": np.full(8, 12.0), "y": np.arange(8.0)}
    post = bayes.fit(program, data, bayes.NUTS(chains=1, warmup=50, draws=50), seed=0)
    with pytest.raises(bayes.SettingsError, match=r"say which site with site=: .*(theta|other)"):
        post.linear(np.ones((1, 8)))
    found = post.linear(np.ones((1, 8)), site="theta")
    assert found["mean"].item() == pytest.approx(float(post.draws("theta").sum("school").mean()))
    with pytest.raises(KeyError, match="no site 'thetas' in the posterior; it has"):
        post.linear(np.ones((1, 8)), site="thetas")
    with pytest.raises(KeyError, match="no site 'z'"):
        fitted("one")[0].moments("z")


# ----------------------------------------------------------------------- predictions


@every_kind
def test_predictions_at_other_factors_are_those_of_the_program(kind):
    """Means and deviations of 4000 draws of the program: |z| < 5, a false alarm in 1.7 million."""
    post, factors, _ = fitted(kind)
    rng = np.random.default_rng(8)
    new = [rng.normal(size=(3, factors[0].shape[1])), factors[1]]
    new = [f.astype(complex) for f in new] if kind == "complex" else new
    mean, sd = post.structure.predict(*new)
    data = {"factors": new} | ({"count": 3} if kind == "snapshots" else {})
    draws = post.predict(data, seed=1)["posterior_predictive"]["y"].values[0]
    draws = draws[..., 0] + 1j * draws[..., 1] if kind == "complex" else draws
    assert draws.shape[1:] == mean.shape
    assert (np.abs(draws.mean(0) - mean) < 5.0 * sd / np.sqrt(4000)).all()
    assert (np.abs(draws.std(0) / sd - 1) < 5.0 / np.sqrt(2 * 4000)).all()


def test_a_posterior_without_learned_variances():
    """All is given: one factor, dense by hand."""
    rng = np.random.default_rng(2)
    rows, seen = rng.normal(size=(5, 3)), rng.normal(size=5)
    post = bayes.fit(normal_regression, {"factors": [rows], "y": seen}, "kronecker_sbl")
    precision = np.diag(1 / np.array([1.0, 2.0, 3.0])) + rows.T @ rows / 0.49
    covariance = np.linalg.inv(precision)
    found = post.linear(np.array([[1.0, -1.0, 0.5]]))
    contrast = np.array([1.0, -1.0, 0.5])
    assert found["mean"].item() == pytest.approx(contrast @ covariance @ rows.T @ seen / 0.49)
    assert found["sd"].item() == pytest.approx(np.sqrt(contrast @ covariance @ contrast))
    assert post.diagnostics.ok
    assert post.structure.support().all()
