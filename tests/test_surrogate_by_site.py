"""Surrogates of programs that do not run without what they observe."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayes
from bayes.compilation import computing

RNG = np.random.default_rng(0)
DATA = {"values": RNG.normal(1.0, 1.0, size=4)}
SMALL = {"components": 2, "width": 16, "layers": 1, "heads": 2, "batch": 32, "steps": 20}

pytestmark = pytest.mark.filterwarnings("ignore::bayes.ConvergenceWarning")  # of twenty steps


class Program:
    """A normal mean; two of the same are told apart by their densities alone."""

    __name__ = "program"

    def __init__(self, scale=2.0, noise=1.0):
        self.scale, self.noise = scale, noise

    def __call__(self, values):
        mu = numpyro.sample("mu", dist.Normal(0.0, self.scale))
        with numpyro.plate("row", values.shape[0]):
            numpyro.sample("y", dist.Normal(mu, self.noise), obs=values)


class Unhashable(Program):
    """One that no set can hold."""

    __hash__ = None


def same_name(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    with numpyro.plate("row", y.shape[0]):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


@pytest.fixture(scope="module")
def dt():
    return bayes.amortize(Program(), DATA, bayes.DistributionTransformer(**SMALL), seed=0)


def verified(dt, program):
    dt.verify(bayes.Model(program).bind(DATA))


def one_by_one(dt, program, name, sets):
    for values in sets:
        problem = bayes.Model(program).bind({name: values})
        with computing():
            yield dt.propose(problem, np.zeros(2, np.uint32)).mixture


@pytest.mark.parametrize("kind", [Program, Unhashable])
def test_the_same_program_is_taken(dt, kind):
    """Twice: the second time it is known, where it can be."""
    program = kind()
    verified(dt, program)
    verified(dt, program)


@pytest.mark.parametrize("kind", [Program, Unhashable])
@pytest.mark.parametrize("change", [{"scale": 4.0}, {"noise": 2.0}], ids=str)
def test_programs_of_another_prior_or_noise_are_refused(dt, kind, change):
    program = kind(**change)
    for _ in range(2):
        with pytest.raises(bayes.UnsupportedModelError, match="is not the program"):
            verified(dt, program)


@pytest.mark.parametrize("rows", [4, 3])
def test_a_batch_goes_by_the_name_of_the_site(dt, rows):
    """Equal to single ones but for the rounding of float32; rows may be fewer."""
    sets = RNG.normal(size=(3, rows))
    batch = dt.posteriors({"y": sets})
    for i, one in enumerate(one_by_one(dt, Program(), "values", sets)):
        for a, b in zip(one, batch.mixture, strict=True):
            np.testing.assert_allclose(a, b[i], rtol=1e-3, atol=1e-3)
    draws = batch.draws(2000, seed=0)["mu"]
    error = batch.sd[:, 0] / np.sqrt(2000)  # five of them: a false alarm has probability 2e-6
    assert np.all(np.abs(draws.mean("draw") - batch.mean[:, 0]) < 5 * error)


def test_an_argument_may_have_the_name_of_the_site():
    found = bayes.amortize(
        same_name, {"y": DATA["values"]}, bayes.DistributionTransformer(**SMALL), seed=0
    )
    sets = RNG.normal(size=(3, 2))
    batch = found.posteriors({"y": sets})
    for i, one in enumerate(one_by_one(found, same_name, "y", sets)):
        for a, b in zip(one, batch.mixture, strict=True):
            np.testing.assert_allclose(a, b[i], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ({"values": np.zeros((2, 4))}, bayes.DataError, "observed at site 'y'.*give it as 'y'"),
        ({"simulated_y": np.zeros((2, 4))}, bayes.DataError, r"'simulated_y' is not .*\(.*\by\)"),
        ({"y": np.full((2, 4), np.nan)}, bayes.DataError, "'y' is not finite in data set 0"),
        ({"y": np.zeros((2, 4, 1))}, bayes.ShapeError, "'y' has shape"),
        ({"y": np.float64(3.0)}, bayes.ShapeError, "'y' has shape"),
    ],
    ids=["argument", "rewritten", "nan", "shape", "scalar"],
)
def test_messages_speak_of_the_site(dt, given, error, match):
    with pytest.raises(error, match=match) as said:
        dt.posteriors(given)
    assert "simulated_" not in str(said.value).replace("'simulated_y' is not", "")
