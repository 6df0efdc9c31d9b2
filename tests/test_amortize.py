"""What amortize() refuses before it trains, and what it trains by default."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayes
from bayes.surrogates.training import Schedule

DATA = {"x": np.array([0.5, 1.5, 2.5]), "y": np.zeros(3)}


def normal(x, y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(mu + x, 1.0), obs=y)


class Reached(Exception):
    """Training would have begun."""


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"method": "distribution_transformer"}, "a configured surrogate"),
        ({"method": bayes.DistributionTransformer}, "a configured surrogate"),
        ({"method": bayes.NUTS()}, "a configured surrogate"),
        ({"budget": 0.0}, "positive number of seconds"),
        ({"budget": -1.0}, "positive number of seconds"),
        ({"budget": float("nan")}, "positive number of seconds"),
        ({"budget": float("inf")}, "positive number of seconds"),
        ({"budget": "60"}, "positive number of seconds"),
        ({"rows": 0}, "rows is a whole number"),
        ({"rows": 2.5}, "rows is a whole number"),
        ({"rows": True}, "rows is a whole number"),
        ({"seed": -1}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"design": 3}, "design is a function"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(options, match):
    with pytest.raises(bayes.SettingsError, match=match):
        bayes.amortize(normal, DATA, **options)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"components": 0}, "components"),
        ({"layers": 1.5}, "layers"),
        ({"steps": 0}, "steps"),
        ({"width": 30, "heads": 4}, "width=30 is not a multiple of heads=4"),
        ({"runtime_priors": 1.5}, "runtime_priors is a share"),
        ({"learning_rate": 0.0}, "learning_rate"),
    ],
    ids=str,
)
def test_networks_that_cannot_be_are_refused(settings, match):
    with pytest.raises(bayes.SettingsError, match=match):
        bayes.DistributionTransformer(**settings)


def test_a_meta_prior_of_another_size_is_refused():
    method = bayes.DistributionTransformer(steps=20, meta_prior=lambda key: np.zeros(3))
    with pytest.raises(bayes.SettingsError, match="Mixture of 8 components in 1 dimensions"):
        bayes.amortize(normal, DATA, method)


def test_the_default_is_a_distribution_transformer(monkeypatch):
    seen = []

    def train(self, simulator, key, **options):
        seen.append((self, simulator.rows, options["budget"]))
        raise Reached

    monkeypatch.setattr(bayes.DistributionTransformer, "train", train)
    with pytest.raises(Reached):
        bayes.amortize(normal, DATA, budget=3.0, rows=7)
    assert seen == [(bayes.DistributionTransformer(), 7, 3.0)]
    assert Schedule(1, 0.1).average < 1
