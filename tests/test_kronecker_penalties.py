"""Priors as majorising functions: they touch and lie above, and their minima are found."""

import numpy as np
import pytest
import scipy.stats as st
from scipy.optimize import brentq, minimize_scalar

from bayes.inference.kronecker.penalties import PRIORS, Prior, Terms, log_prior, majorise, minimum

PARAMETERS = {
    "ImproperUniform": [()],
    "Gamma": [(0.5, 2.0), (1.0, 0.3), (4.0, 5.0)],
    "InverseGamma": [(2.0, 3.0), (0.5, 1e-3)],
    "Exponential": [(2.0,)],
    "HalfCauchy": [(1.5,), (1e-3,)],
    "HalfNormal": [(0.7,)],
}
CASES = [
    pytest.param(Prior(kind, tuple(np.asarray(v) for v in values), power), id=f"{kind}-{i}-{power}")
    for kind, sets in PARAMETERS.items()
    for i, values in enumerate(sets)
    for power in (1, 2)
]
GRID = np.geomspace(1e-6, 1e6, 1201)


def scipys(prior):
    """The same distribution of the site by SciPy."""
    values = [float(v) for v in prior.parameters]
    match prior.kind:
        case "Gamma":
            return st.gamma(values[0], scale=1.0 / values[1])
        case "InverseGamma":
            return st.invgamma(values[0], scale=values[1])
        case "Exponential":
            return st.expon(scale=1.0 / values[0])
        case "HalfCauchy":
            return st.halfcauchy(scale=values[0])
    return st.halfnorm(scale=values[0])


def value(terms, t):
    """b t + a / t + c log t + e t^2."""
    return terms.linear * t + terms.inverse / t + terms.log * np.log(t) + terms.square * t**2


def slope_in_log(terms, r):
    """Of the same in r = log t, which has one sign change."""
    t = np.exp(r)
    return terms.linear * t - terms.inverse / t + terms.log + 2.0 * terms.square * t**2


def test_all_priors_are_tested():
    assert set(PARAMETERS) == set(PRIORS)


# ---------------------------------------------------------------------- log_prior


@pytest.mark.parametrize("prior", CASES)
def test_log_prior_is_scipys_density_of_the_site(prior):
    """At t = u ** power, and summed over elements."""
    sites = np.geomspace(1e-3, 20.0, 9)
    found = log_prior(prior, sites**prior.power)
    assert isinstance(found, float)
    if prior.is_flat:
        assert prior.kind == "ImproperUniform"
        assert found == 0.0
        return
    expected = scipys(prior).logpdf(sites)
    assert found == pytest.approx(expected.sum(), rel=1e-12)
    assert log_prior(prior, float(sites[4] ** prior.power)) == pytest.approx(expected[4], rel=1e-11)


def test_parameters_broadcast_with_the_elements():
    """One rate for each element, and one concentration for all; some elements keep theirs."""
    rates, t = np.array([0.5, 1.0, 4.0]), np.array([0.3, 2.0, 7.0])
    prior = Prior("Gamma", (np.asarray(2.0), rates))
    expected = st.gamma(2.0, scale=1.0 / rates).logpdf(t)
    assert log_prior(prior, t) == pytest.approx(expected.sum())
    some = prior.of(np.array([0, 2]))
    assert some.parameters[0].ndim == 0
    np.testing.assert_array_equal(some.parameters[1], rates[[0, 2]])
    assert log_prior(some, t[[0, 2]]) == pytest.approx(expected[[0, 2]].sum())
    assert (some.kind, some.power) == (prior.kind, prior.power)


# ----------------------------------------------------------------------- majorise


@pytest.mark.parametrize("prior", CASES)
def test_majorising_functions_touch_and_lie_above(prior):
    """Over twelve decades; rounding of the terms that cancel leaves 1e-12 of the largest."""
    exact = np.array([-log_prior(prior, t) for t in GRID])
    for present in (1e-4, 0.03, 1.0, 20.0, 3e3):
        terms = majorise(prior, present)
        above = value(terms, GRID) - value(terms, present)
        away = exact + log_prior(prior, present)
        assert np.min((above - away) / (1.0 + np.abs(above) + np.abs(away))) > -1e-12
        # Where they touch they have the same slope, by central differences in log t.
        up, down = present * np.exp(1e-4), present * np.exp(-1e-4)
        numeric = (log_prior(prior, down) - log_prior(prior, up)) / 2e-4
        found = float(slope_in_log(terms, np.log(present)))
        assert found == pytest.approx(numeric, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("prior", CASES)
def test_steps_of_a_majorising_function_climb_to_the_priors_mode(prior):
    """Never down, and for t = u ** power of a site u with a mode above zero, to that mode."""
    if prior.is_flat:
        assert float(minimum(majorise(prior, 2.0), 2.0)) == 2.0
        return
    t, heights = 5.0, []
    for _ in range(2000):
        heights.append(log_prior(prior, t))
        t = max(float(minimum(majorise(prior, t), t)), 1e-12)
    assert np.diff(heights).min() > -1e-12
    match prior.kind:
        case "Gamma":
            mode = max(float(prior.parameters[0]) - 1.0, 0.0) / float(prior.parameters[1])
        case "InverseGamma":
            mode = float(prior.parameters[1]) / (float(prior.parameters[0]) + 1.0)
        case _:
            mode = 0.0
    assert t ** (1.0 / prior.power) == pytest.approx(mode, rel=1e-5, abs=2e-6)


@pytest.mark.parametrize("prior", CASES)
def test_elements_have_their_own_terms(prior):
    """All at once, and one by one."""
    t = np.geomspace(1e-2, 1e2, 5)
    together = value(majorise(prior, t), t * 1.3)
    alone = [float(value(majorise(prior, one), one * 1.3)) for one in t]
    np.testing.assert_allclose(np.broadcast_to(together, t.shape), alone, rtol=1e-14)


# ------------------------------------------------------------------------ minimum


def some_terms(rng, count):
    """Coefficients over ten decades, each of them zero in a fifth of all cases; c of both signs.

    Without those that fall for ever, which have no minimum.
    """
    a, b, c, e = np.exp(rng.uniform(-11.5, 11.5, (4, count)))
    a, b, c, e = (v * (rng.random(count) > 0.2) for v in (a, b, c, e))
    c = c * rng.choice([-1.0, 1.0], count)
    falls = (b + e == 0) & (c <= 0) & (a + np.abs(c) > 0)
    return Terms(*(v[~falls] for v in (a, b, c, e)))


def test_minima_are_where_the_slope_in_the_log_changes_sign():
    """By bisection between 1e-26 and 1e26, to 1e-10, for thousands of random coefficients."""
    terms = some_terms(np.random.default_rng(1), 4000)
    found = minimum(terms, 1.0)
    bounds = np.log(1e-26), np.log(1e26)
    inside = 0
    for place, t in enumerate(found):
        one = Terms(*(float(v[place]) for v in terms))
        ends = [float(slope_in_log(one, r)) for r in bounds]
        if ends == [0.0, 0.0]:
            assert t == 1.0  # a constant: as it was
        elif ends[0] >= 0.0:
            assert t == 0.0  # it rises everywhere
        else:
            inside += 1
            root = brentq(lambda r, one=one: slope_in_log(one, r), *bounds, xtol=1e-13, rtol=1e-13)
            assert t == pytest.approx(np.exp(root), rel=1e-10)
    assert inside > 2500


def test_minima_are_those_that_scipy_finds():
    """Its search in log t knows the value alone, and so half of the digits."""
    terms = some_terms(np.random.default_rng(2), 300)
    found = minimum(terms, 1.0)
    compared = 0
    for place, t in enumerate(found):
        if not 1e-20 < t < 1e20 or t == 1.0:
            continue
        one = Terms(*(float(v[place]) for v in terms))
        at = np.log(t)
        best = minimize_scalar(
            lambda r, one=one: value(one, np.exp(r)),
            bracket=(at - 3.0, at + 0.5, at + 2.0),
            options={"xtol": 1e-12},
        )
        assert value(one, t) <= best.fun + 1e-13 * np.abs(best.fun)
        # What rounding of the value hides of the place, by its curvature.
        bend = one.linear * t + one.inverse / t + 4.0 * one.square * t**2
        size = bend + np.abs(one.log * at)
        assert abs(best.x - at) < 10 * np.sqrt(1e-15 * size / bend)
        compared += 1
    assert compared > 150


@pytest.mark.parametrize("e", [0.0, 1e-8, 1.0, 1e8])
def test_extreme_coefficients_do_not_cancel(e):
    """The root's own equation holds to 1e-9 of its terms, where c is 1e8 times all else."""
    for c in (-1e8, 1e8):
        for a, b in ((1e-8, 1e-8), (1.0, 1e-8), (1e-8, 1.0), (1.0, 1.0)):
            t = float(minimum(Terms(a, b, c, e), 1.0))
            parts = np.array([2.0 * e * t**3, b * t**2, c * t, -a])
            assert abs(parts.sum()) <= 1e-9 * np.abs(parts).max()
            assert t > 0


def test_terms_add_and_multiply():
    one, two = Terms(1.0, 2.0, -3.0, 4.0), Terms(0.5, 0.0, 1.0, 2.0)
    t = np.array([0.2, 3.0])
    np.testing.assert_allclose(value(one.plus(two), t), value(one, t) + value(two, t))
    np.testing.assert_allclose(value(one.times(2.5), t), 2.5 * value(one, t))
