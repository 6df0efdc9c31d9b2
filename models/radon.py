"""Radon in Minnesota: varying county intercepts with predictors of house and county.

Log radon measured in 919 houses of 85 counties, from 1 to 116 houses a county. Each county has its
own intercept, drawn from a common population; the predictors are the county's soil uranium, whether
the measurement was taken on the first floor rather than in the basement, and the share of
first-floor measurements in the county (a contextual effect).

Source: Gelman and Hill (2007), Data Analysis Using Regression and Multilevel/Hierarchical Models,
chapter 12; the model with its priors is inference gym's
radon_contextual_effects_minnesota_halfnormal (Apache-2.0). Data: radon_mn of posteriordb
(BSD-3-Clause), an extract of the State Residential Radon Survey of the US Environmental Protection
Agency; county names as in the R package HLMdiag.

What to expect: radon rises with uranium (0.71 per log unit) and is lower on the first floor
(-0.71); counties differ by only about 0.14 after that, against 0.76 between houses, so the county
effects are a mild funnel in the centred form used here.
"""

import pathlib

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def model(county, floor, uranium, floor_by_county, n_county, log_radon=None):
    """Normal regression with intercepts that vary by county, centred.

    Parameters
    ----------
    county : array of int, shape (house,)
        County of each house, from 0.
    floor : array, shape (house,)
        0 if measured in the basement, 1 on the first floor.
    uranium : array, shape (house,)
        Log of the county's soil uranium, in parts per million.
    floor_by_county : array, shape (house,)
        Mean of `floor` in the county.
    n_county : int
        Number of counties.
    log_radon : array, shape (house,), optional
        Log of the radon activity, in pCi/L.
    """
    mean = numpyro.sample("county_effect_mean", dist.Normal(0.0, 1.0))
    scale = numpyro.sample("county_effect_scale", dist.HalfNormal(1.0))
    weight = numpyro.sample("weight", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    sigma = numpyro.sample("log_radon_scale", dist.HalfNormal(1.0))
    with numpyro.plate("county", n_county):
        effect = numpyro.sample("county_effect", dist.Normal(mean, scale))
    design = jnp.stack([uranium, floor * 1.0, floor_by_county], axis=-1)
    with numpyro.plate("house", county.shape[0]):
        expected = effect[county] + design @ weight
        numpyro.sample("log_radon", dist.Normal(expected, sigma), obs=log_radon)


def data():
    """919 rows; `county` is categorical, so its codes and the number of levels follow from it."""
    import pandas

    path = pathlib.Path(__file__).with_name("data") / "radon.csv"
    return pandas.read_csv(path, dtype={"county": "category"})


SETTINGS = {"reparam": "auto"}
DIMS = {"weight": ["predictor"]}
COORDS = {"predictor": ["uranium", "floor", "floor_by_county"]}

REFERENCE = {
    "county_effect_mean": (1.392279, 0.05071272),
    "county_effect_scale": (0.1445722, 0.04918907),
    "weight[0]": (0.7140640, 0.09035091),
    "weight[1]": (-0.7142174, 0.07317535),
    "weight[2]": (0.3987757, 0.2006695),
    "log_radon_scale": (0.7597759, 0.01840818),
    "county_effect[0]": (1.369591, 0.1478222),
    "county_effect[21]": (1.201908, 0.1684180),
    "county_effect[25]": (1.387554, 0.06906306),
    "county_effect[69]": (1.206519, 0.08478326),
    "county_effect[83]": (1.481399, 0.1313978),
}
REFERENCE_SOURCE = "inference gym radon_contextual_effects_minnesota_halfnormal, Stan ground truth"
