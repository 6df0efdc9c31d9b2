"""Which method ``"auto"`` takes, and whose ``reparam`` counts."""

import dataclasses
from typing import ClassVar

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models_for_tests import SCHOOLS_DATA, normal_mean, schools

import bayes
from bayes.choosing import as_method, bound_for, choose_for, nuts_seconds
from bayes.inference.advi import ADVI
from bayes.inference.laplace import Laplace
from bayes.inference.nuts import NUTS
from bayes.inference.variational import VI
from bayes.method import methods


def logistic(x, y=None):
    beta = numpyro.sample("beta", dist.Normal(0, 1).expand([x.shape[1]]).to_event(1))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=x @ beta), obs=y)


def in_batches(x, y=None):
    beta = numpyro.sample("beta", dist.Normal(0, 1).expand([x.shape[1]]).to_event(1))
    with numpyro.plate("row", x.shape[0], subsample_size=100):
        some = numpyro.subsample(x, event_dim=1)
        obs = None if y is None else numpyro.subsample(y, event_dim=0)
        numpyro.sample("y", dist.Bernoulli(logits=some @ beta), obs=obs)


def rows(n, d=10):
    rng = np.random.default_rng(0)
    return {"x": rng.normal(size=(n, d)), "y": rng.integers(0, 2, size=n)}


def bind(model, data, **options):
    return bayes.Model(model, **options).bind(data)


# ------------------------------------------------------------------------- auto


@pytest.mark.parametrize("budget", [None, 60.0])
def test_small_models_are_for_nuts(budget):
    method, reason = choose_for(bind(schools, SCHOOLS_DATA), budget)
    assert type(method) is NUTS
    assert reason.startswith("auto: NUTS is exact, and takes an estimated ")


@pytest.fixture(scope="module")
def large():
    """Logistic regression on 10^5 rows."""
    return bind(logistic, rows(100_000))


def test_a_model_that_takes_longer_than_the_budget_is_for_the_ladder(large):
    method, reason = choose_for(large, 1.0)
    assert type(method) is VI
    assert reason.startswith("auto: NUTS would take an estimated ")
    assert reason.endswith("more than 1 s")


def test_without_a_budget_ten_minutes_are_the_limit(large):
    assert type(choose_for(large, None)[0]) is NUTS
    assert nuts_seconds(large) < 600
    assert type(choose_for(large, nuts_seconds(large) - 0.5)[0]) is VI
    assert type(choose_for(large, nuts_seconds(large) + 0.5)[0]) is NUTS


def test_plates_that_take_subsamples_are_for_mini_batches():
    problem = bind(in_batches, rows(100_000))
    method, reason = choose_for(problem, 1.0)
    assert type(method) is ADVI
    assert "plate 'row' takes subsamples" in reason
    assert type(choose_for(problem, None)[0]) is NUTS


def test_the_estimate_grows_with_rows_and_unknowns(large):
    """In proportion to the rows where these are many; whoever asks gets the same."""
    fewer, more = bind(logistic, rows(50_000)), bind(logistic, rows(100_000, 20))
    assert nuts_seconds(large) / nuts_seconds(fewer) == pytest.approx(2.0, rel=0.1)
    assert 1.2 < nuts_seconds(more) / nuts_seconds(large) < 4.0
    assert nuts_seconds(large) == nuts_seconds(large)
    assert nuts_seconds(bind(normal_mean, {"n": 3, "y": np.arange(3.0)})) < 5.0


def test_the_posterior_says_which_and_why():
    data = {"n": 3, "y": np.arange(3.0)}
    post = bayes.fit(normal_mean, data, method="auto", seed=0)
    assert post.method.name == "nuts"
    assert post.method.reason.startswith("auto: NUTS is exact")
    assert bayes.fit(normal_mean, data, Laplace(draws=500), seed=0).method.reason == "asked for"


def test_there_is_nothing_to_refine_where_nuts_is_chosen():
    data = {"n": 3, "y": np.arange(3.0)}
    post = bayes.fit(normal_mean, data, method="auto", seed=0, refine="psis")
    assert post.method.name == "nuts"
    assert post.method.reason.endswith("there is nothing to refine")


def test_the_ladder_that_was_chosen_has_its_own_parametrisation(monkeypatch):
    """A model that is bound as it is written is bound anew."""
    monkeypatch.setattr("bayes.choosing.nuts_seconds", lambda problem: 1e6)
    post = bayes.fit(schools, SCHOOLS_DATA, method="auto", seed=0)
    assert post.method.name == "vi"
    assert "auto: NUTS would take an estimated 278 hours, more than 10 minutes" in str(post.method)
    assert post.problem.reparametrised == ("theta",)
    asked = bayes.fit(schools, SCHOOLS_DATA, method="vi", seed=0)
    np.testing.assert_array_equal(post.draws("tau").values, asked.draws("tau").values)


# ---------------------------------------------------------------------- structure


@pytest.fixture
def toy(monkeypatch):
    """A method that solves models with a site ``mu``, known for the length of a test."""

    @dataclasses.dataclass(frozen=True)
    class Toy(Laplace):
        name: ClassVar[str] = "a_toy"
        structured: ClassVar[bool] = True

        def check(self, problem):
            if "mu" not in problem.sites:
                raise bayes.UnsupportedModelError("no site mu")

    known = {"a_toy": Toy, **methods()}
    monkeypatch.setattr("bayes.choosing.methods", lambda: known)
    yield Toy
    Toy.name = ""  # classes are found as long as they live
    methods.cache_clear()


def test_what_solves_the_structure_comes_first(toy):
    method, reason = choose_for(bind(schools, SCHOOLS_DATA), None)
    assert type(method) is toy
    assert reason == "auto: a_toy solves the structure of this model"


def test_what_does_not_fit_is_passed_over(toy):
    assert type(choose_for(bind(logistic, rows(50)), None)[0]) is NUTS


def test_the_toy_is_gone():
    assert "a_toy" not in methods()


# ------------------------------------------------------------------------ reparam


def test_the_argument_is_over_the_model_and_the_model_over_the_method():
    def taken(method, model, given):
        return bound_for(method, bayes.Model(schools, reparam=model), None, None, given).reparam

    assert taken(VI(), None, None) == "auto"
    assert taken(NUTS(), None, None) is None
    assert taken(None, None, None) is None
    assert taken(NUTS(), "auto", None) == "auto"
    assert taken(VI(), {}, None) == {}
    assert taken(VI(), "auto", {}) == {}
    assert taken(NUTS(), {}, "auto") == "auto"
    assert taken(VI(), None, {}) == {}


def test_other_settings_of_the_model_stay():
    model = bayes.Model(schools, dims={"mu": []}, allow_prior=True, name="eight")
    found = bound_for(VI(), model, None, {"school": list("ABCDEFGH")}, None)
    assert found.name == "eight"
    assert found.allow_prior
    assert found.coords == {"school": list("ABCDEFGH")}
    assert model.reparam is None


# ------------------------------------------------------------------------- names


def test_names_and_methods():
    assert as_method("auto") is None
    assert as_method("vi") == VI()
    method = VI(paths=2)
    assert as_method(method) is method
    with pytest.raises(bayes.SettingsError, match=r"pass VI\(\)"):
        as_method(VI)
    with pytest.raises(bayes.SettingsError, match="no method 'vo'"):
        as_method("vo")
    with pytest.raises(bayes.SettingsError, match="got int"):
        as_method(3)


# ------------------------------------------------------------------- calibration


def test_calibration_of_the_ladder():
    """40 simulations; a right method is flagged in one of 100 runs, as the verdict promises."""
    found = bayes.sbc(normal_mean, {"n": 5}, method="vi", simulations=40, seed=0)
    assert found.ok, found


@pytest.mark.filterwarnings("ignore::bayes.ConvergenceWarning")
def test_calibration_has_the_parametrisation_of_the_method():
    """Centred, eight schools would be beyond the ladder; so most fits of it would not be ok."""
    found = bayes.sbc(
        schools, {"sigma": SCHOOLS_DATA["sigma"]}, method="vi", simulations=20, seed=0
    )
    assert found.ok, found
