"""Children's test scores: linear regression with an interaction.

Cognitive test scores of 434 three- and four-year-olds, explained by whether the mother finished
high school, by her IQ, and by the product of the two. The predictors are deliberately left
uncentred: coefficients are strongly correlated and of very different size, which tests how well a
method copes with scale.

Source: Gelman and Hill (2007), Data Analysis Using Regression and Multilevel/Hierarchical Models,
chapter 3; posteriordb's kidscore_interaction. Data: the National Longitudinal Survey of Youth
sample of that book, as in posteriordb (BSD-3-Clause). The published model has flat priors on the
coefficients; here they are Normal(0, 1000), which can be sampled and moves no posterior mean by
more than a thousandth of its standard deviation.

What to expect: the score rises by about one point per IQ point for children whose mother did not
finish school, and by about half a point for the others; residual sd 18 points.
"""

import pathlib

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def model(mom_hs, mom_iq, kid_score=None):
    """Normal linear regression on an intercept, both predictors and their product.

    Parameters
    ----------
    mom_hs : array, shape (child,)
        1 if the mother finished high school, else 0.
    mom_iq : array, shape (child,)
        The mother's IQ.
    kid_score : array, shape (child,), optional
        The child's test score.
    """
    ones = jnp.ones_like(mom_iq)
    design = jnp.stack([ones, mom_hs * ones, mom_iq, mom_hs * mom_iq], axis=-1)
    beta = numpyro.sample("beta", dist.Normal(0.0, 1000.0).expand([4]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    with numpyro.plate("child", mom_iq.shape[0]):
        numpyro.sample("kid_score", dist.Normal(design @ beta, sigma), obs=kid_score)


def data():
    """434 rows: `mom_hs`, `mom_iq`, `kid_score`."""
    import pandas

    return pandas.read_csv(pathlib.Path(__file__).with_name("data") / "kid_iq.csv")


DIMS = {"beta": ["coefficient"]}
COORDS = {"coefficient": ["intercept", "mom_hs", "mom_iq", "mom_hs:mom_iq"]}

REFERENCE = {
    "beta[0]": (-11.35865, 13.68793),
    "beta[1]": (51.03276, 15.24825),
    "beta[2]": (0.9674126, 0.1476116),
    "beta[3]": (-0.4815862, 0.1612771),
    "sigma": (17.98109, 0.6140361),
}
REFERENCE_SOURCE = "posteriordb kidiq-kidscore_interaction, 10 000 reference draws"
