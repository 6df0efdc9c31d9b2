"""A spin in a tilted field: one parameter of a Hamiltonian from ten yes-or-no measurements.

A two-level system evolves under H = delta sigma_x + (1 - delta) sigma_z, in units where the reduced
Planck constant is one. Ten runs prepare a known state, let it evolve for a known time and ask once
whether the spin is up. With w = sqrt(delta^2 + (1 - delta)^2), the evolution over a time t is
cos(w t) - i sin(w t) H / w, which gives the probabilities in closed form.

Source: Whittle, Ziomek, Rawling and Osborne (2025), Distribution Transformers: fast approximate
Bayesian inference with on-the-fly prior adaptation, arXiv 2502.02463, section 4.2.2. The states and
times are those of the authors' published configuration: five runs from up (t = 1 to 5), two from
down (t = 1, 2) and three from their even superposition (t = 1, 2, 3). There, states and times are
blurred by noise; here they are exact, so that the likelihood is too. The prior is Beta(a, b), where
a and b, which the paper draws from InverseGamma(4, 6), are arguments: 2 in the data below.
Data: simulated here from delta = 0.3 with NumPy's default_rng(0), public domain.

What to expect: ten bits halve the prior's standard deviation. The posterior is skewed to the right,
0.22 with a standard deviation of 0.11, and the truth lies within one of these.
"""

import pathlib

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def probability(delta, up, down, time):
    """Probability that the spin is found up.

    Parameters
    ----------
    delta : array
        Share of sigma_x in the Hamiltonian, between 0 and 1.
    up, down : array, shape (run,)
        Real amplitudes of the prepared state, of unit length.
    time : array, shape (run,)
        Time of evolution, in inverse units of energy.

    Returns
    -------
    array, shape (run,)
    """
    w = jnp.hypot(delta, 1.0 - delta)
    sine = jnp.sin(w * time)
    turned = ((1.0 - delta) * up + delta * down) / w
    return jnp.square(up) * (1.0 - jnp.square(sine)) + jnp.square(turned * sine)


def model(a, b, up, down, time, found=None):
    """Beta prior, Bernoulli measurements.

    Parameters
    ----------
    a, b : float
        Parameters of the prior of delta.
    up, down : array, shape (run,)
        Real amplitudes of the prepared state.
    time : array, shape (run,)
        Time of evolution.
    found : array of int, shape (run,), optional
        1 where the spin was found up.
    """
    delta = numpyro.sample("delta", dist.Beta(a, b))
    with numpyro.plate("run", time.shape[0]):
        chance = probability(delta, up, down, time)
        numpyro.sample("found", dist.Bernoulli(probs=chance), obs=found)


def data(a=2.0, b=2.0):
    """Ten runs: `up`, `down`, `time`, `found`; and `a`, `b` of the prior."""
    import pandas

    path = pathlib.Path(__file__).with_name("data") / "quantum.csv"
    table = pandas.read_csv(path, index_col="run")
    length = (table["up"] ** 2 + table["down"] ** 2) ** 0.5
    return {
        "a": a,
        "b": b,
        "up": (table["up"] / length).to_numpy(),
        "down": (table["down"] / length).to_numpy(),
        "time": table["time"].to_numpy(float),
        "found": table["found"].to_numpy(),
    }


REFERENCE = {"delta": (0.2177345, 0.1123216)}
REFERENCE_SOURCE = "exact: quadrature on 200 001 points of delta"
