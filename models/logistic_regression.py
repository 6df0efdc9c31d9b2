"""Arsenic in wells: logistic regression of 3020 decisions.

In Araihazar, Bangladesh, wells were tested for arsenic and households with an unsafe one were urged
to switch to a neighbour's safe well. The probability of having switched, some years later, depends
on the distance to the nearest safe well and on the arsenic level of the household's own.

Source: Gelman and Hill (2007), Data Analysis Using Regression and Multilevel/Hierarchical Models,
section 5.4; posteriordb's wells_dist100ars. Data: the wells table of that book, as in the R package
carData and in public course material. The published model has flat priors; here they are
Normal(0, 10), which can be sampled and moves no posterior mean by more than a hundredth of its
standard deviation.

What to expect: households switch less the farther the safe well is (-0.90 per 100 m) and more the
worse their own (0.46 per unit of arsenic). The book's maximum-likelihood fit is 0.00, -0.90, 0.46
with standard errors 0.08, 0.10, 0.04; the posterior is nearly normal and agrees.
"""

import pathlib

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def model(distance, arsenic, switched=None):
    """Bernoulli regression with a logit link.

    Parameters
    ----------
    distance : array, shape (household,)
        Distance to the nearest safe well, in metres.
    arsenic : array, shape (household,)
        Arsenic in the household's own well, in hundreds of micrograms per litre.
    switched : array of 0 and 1, shape (household,), optional
        Whether the household switched.
    """
    alpha = numpyro.sample("alpha", dist.Normal(0.0, 10.0))
    beta = numpyro.sample("beta", dist.Normal(0.0, 10.0).expand([2]).to_event(1))
    design = jnp.stack([distance / 100.0, arsenic], axis=-1)
    with numpyro.plate("household", distance.shape[0]):
        numpyro.sample("switched", dist.Bernoulli(logits=alpha + design @ beta), obs=switched)


def data():
    """3020 rows: `distance`, `arsenic`, `switched`."""
    import pandas

    return pandas.read_csv(pathlib.Path(__file__).with_name("data") / "logistic_regression.csv")


DIMS = {"beta": ["coefficient"]}
COORDS = {"coefficient": ["distance_100m", "arsenic"]}

REFERENCE = {
    "alpha": (0.003188891, 0.07890826),
    "beta[0]": (-0.9000446, 0.1043916),
    "beta[1]": (0.4616434, 0.04111180),
}
REFERENCE_SOURCE = "posteriordb wells_data-wells_dist100ars_model, reference means and mean squares"
