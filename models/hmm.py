"""Major earthquakes: a Poisson hidden Markov model with three states.

The yearly number of earthquakes of magnitude 7 or more, 1900 to 2006. Each year is in one of three
states, calm, middling or active; the count is Poisson with the rate of its state and the state
follows a stationary Markov chain. The states are summed out by the forward algorithm.

Source: Zucchini and MacDonald (2009), Hidden Markov Models for Time Series, chapters 1 to 3, who
fit it by maximum likelihood; the priors are this gallery's: ordered log rates, each about 1.4 times
the one before, and uniform rows of the transition matrix. Data: table 1.1 of the book (US
Geological Survey, public domain).

What to expect: rates of about 13, 20 and 30 a year and persistent states. Maximum likelihood on
these data gives rates 13.15, 19.72 and 29.71 and staying probabilities 0.955, 0.899 and 0.803
(minus log likelihood 329.46). The posterior has the same rates, but its staying probabilities are
lower and wide (0.86, 0.81, 0.70), because the prior holds the transitions away from zero. A side
mode with 0.7 % of the mass, in which the middling state is left at once, gives the middle row of
the transition matrix a long tail: its means converge slowly.
"""

import pathlib
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints, transforms

STATES = 3


class PoissonHMM(dist.Distribution):
    """Counts of a stationary hidden Markov chain: the law of a whole series, states summed out."""

    arg_constraints: ClassVar = {
        "log_rate": constraints.real_vector,
        "transition": constraints.real_matrix,
    }
    support = constraints.independent(constraints.nonnegative_integer, 1)
    pytree_data_fields = ("log_rate", "transition", "log_start")
    pytree_aux_fields = ("length",)

    def __init__(self, log_rate, transition, length):
        self.log_rate, self.transition, self.length = log_rate, transition, length
        system = jnp.eye(STATES) - transition + 1.0  # start @ system = 1: the stationary law
        self.log_start = jnp.log(jnp.linalg.solve(system.T, jnp.ones(STATES)))
        super().__init__((), (length,))

    def sample(self, key, sample_shape=()):
        """Draw series: the chain of states first, then a count from each."""

        def draw(key):
            first, rest, emit = jax.random.split(key, 3)
            start = jax.random.categorical(first, self.log_start)

            def move(state, key):
                return jax.random.categorical(key, jnp.log(self.transition[state])), state

            state = jax.lax.scan(move, start, jax.random.split(rest, self.length))[1]
            return jax.random.poisson(emit, jnp.exp(self.log_rate[state]))

        keys = jax.random.split(key, sample_shape)
        return jnp.vectorize(draw, signature="(k)->(n)")(jax.random.key_data(keys))

    def log_prob(self, value):
        """Log probability of a series, by the forward algorithm."""
        emission = dist.Poisson(jnp.exp(self.log_rate)).log_prob(value[..., None])

        def forward(filtered, now):
            ahead = jax.nn.logsumexp(filtered[..., None] + jnp.log(self.transition), axis=-2)
            return ahead + now, None

        series = jnp.moveaxis(emission, -2, 0)
        filtered = jax.lax.scan(forward, self.log_start + series[0], series[1:])[0]
        return jax.nn.logsumexp(filtered, axis=-1)


def model(year, count=None):
    """Three-state stationary Poisson hidden Markov model.

    Parameters
    ----------
    year : array, shape (year,)
        Consecutive years; only their number matters.
    count : array of int, shape (year,), optional
        Number of major earthquakes in each year.
    """
    base = dist.Normal(jnp.array([2.5, -1.0, -1.0]), jnp.array([0.5, 0.7, 0.7])).to_event(1)
    ordered = dist.TransformedDistribution(base, transforms.OrderedTransform())
    log_rate = numpyro.sample("log_rate", ordered)
    with numpyro.plate("state", STATES):
        transition = numpyro.sample("transition", dist.Dirichlet(jnp.ones(STATES)))
    numpyro.sample("count", PoissonHMM(log_rate, transition, year.shape[0]), obs=count)


def data():
    """107 rows: `year`, `count`."""
    import pandas

    return pandas.read_csv(pathlib.Path(__file__).with_name("data") / "hmm.csv")


DIMS = {"log_rate": ["state"], "transition": ["next_state"], "count": ["year"]}
COORDS = {name: ["calm", "middling", "active"] for name in ("state", "next_state")}

REFERENCE = {
    "log_rate[0]": (2.58288, 0.0634356),
    "log_rate[1]": (2.98283, 0.0536998),
    "log_rate[2]": (3.38281, 0.0645184),
    "transition[0,0]": (0.861852, 0.0808147),
    "transition[0,1]": (0.0901991, 0.0727462),
    "transition[0,2]": (0.0479492, 0.0410501),
    "transition[1,0]": (0.0916870, 0.0641520),
    "transition[1,1]": (0.812675, 0.0905593),
    "transition[1,2]": (0.0956381, 0.0629890),
    "transition[2,0]": (0.0751747, 0.0676878),
    "transition[2,1]": (0.228047, 0.113402),
    "transition[2,2]": (0.696779, 0.124581),
}
REFERENCE_SOURCE = (
    "NumPyro NUTS, float64, 4 chains of 60 000 draws, effective size over 100 000; "
    "importance sampling (effective size 95 000) agrees"
)
