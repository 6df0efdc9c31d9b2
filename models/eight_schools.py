"""Eight schools: a hierarchical normal model of coaching effects, in its centred form.

The effects of short-term coaching on SAT scores were estimated in eight separate experiments, each
with a known standard error. The true effects are drawn from one population of unknown mean and
spread, so the schools lend each other strength.

Source: Rubin (1981), Estimation in parallel randomized experiments, Journal of Educational
Statistics 6; Gelman et al., Bayesian Data Analysis (3rd ed.), section 5.5. The priors are those of
posteriordb's eight_schools. Data: the published table, as in posteriordb (BSD-3-Clause).

What to expect: an average effect of about 4 points, a population spread that may well be zero, and
school effects shrunk most of the way to the average. Written centred, the posterior is a funnel in
(tau, theta) which a Hamiltonian sampler cannot enter: it diverges and overstates tau unless the
model is reparameterised.
"""

import pathlib

import numpyro
import numpyro.distributions as dist


def model(sigma, y=None):
    """Centred hierarchical normal model.

    Parameters
    ----------
    sigma : array, shape (school,)
        Standard error of each estimate, in points.
    y : array, shape (school,), optional
        Estimated effect in each school, in points.
    """
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("school", sigma.shape[0]):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def data():
    """Eight rows, indexed by school: `y` and `sigma`."""
    import pandas

    path = pathlib.Path(__file__).with_name("data") / "eight_schools.csv"
    return pandas.read_csv(path, index_col="school").astype(float)


SETTINGS = {"reparam": "auto"}

REFERENCE = {
    "mu": (4.410518, 3.309296),
    "tau": (3.602060, 3.198478),
    "theta[0]": (6.150502, 5.615863),
    "theta[1]": (4.939581, 4.645578),
    "theta[2]": (3.905906, 5.280712),
    "theta[3]": (4.796016, 4.770938),
    "theta[4]": (3.614436, 4.614720),
    "theta[5]": (4.051148, 4.796248),
    "theta[6]": (6.317170, 5.002855),
    "theta[7]": (4.883997, 5.317692),
}
REFERENCE_SOURCE = "posteriordb eight_schools-eight_schools_noncentered, 10 000 reference draws"
