"""Log densities on subsamples, and ADVI on plates that take them."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models_for_tests import normal_mean

import bayes
from bayes.compilation import computing
from bayes.inference.advi import ADVI
from bayes.inference.minibatches import minibatch_gradient, plates_of, prepared_of
from bayes.normals import Normal

ROWS, PART = 400, 40


def line(x, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    centred = x - x.mean()
    with numpyro.plate("row", x.shape[0], subsample_size=PART):
        some = numpyro.subsample(centred, event_dim=0)
        obs = None if y is None else numpyro.subsample(y, event_dim=0)
        numpyro.sample("y", dist.Normal(b[0] + b[1] * some, 1.0), obs=obs)


def hierarchy(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    with numpyro.plate("row", y.shape[0], subsample_size=10):
        theta = numpyro.sample("theta", dist.LogNormal(mu, 1.0))
        numpyro.sample("y", dist.Normal(theta, 1.0), obs=numpyro.subsample(y, event_dim=0))


def bound(program, data):
    """A problem whose plates take all elements."""
    return bayes.Model(program).bind(data)


@pytest.fixture(scope="module")
def line_data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=ROWS) + 3.0
    return {"x": x, "y": 1 + 0.5 * x + rng.normal(size=ROWS)}


def estimates(problem, position, anchor, count):
    """Gradients at a position and at an anchor, on many subsamples."""
    plates = plates_of(problem)
    split, prepared = minibatch_gradient(problem, plates), prepared_of(problem, plates)
    words = np.random.default_rng(1).integers(2**32, size=(count, 2), dtype=np.uint32)
    run = jax.jit(
        lambda w, p: jax.lax.map(
            lambda one: split.run((jnp.asarray(position), jnp.asarray(anchor), one), p), w
        )
    )
    return jax.tree.map(np.asarray, run(words, prepared))


@pytest.mark.parametrize("program", ["line", "hierarchy"])
def test_values_and_gradients_on_subsamples_are_unbiased(program, line_data):
    """|z| < 4.5 for each of at most 31 elements: a false alarm in 4 800.

    The log density of a site that stands in such a plate is of the subsample's elements, too.
    """
    data = line_data if program == "line" else {"y": np.exp(np.linspace(-1, 1, 30))}
    with computing():
        problem = bound(globals()[program], data)
        rng = np.random.default_rng(2)
        position, anchor = 0.3 * rng.normal(size=(2, problem.size))
        here, there = estimates(problem, position, anchor, 4000)
        for (values, gradients), place in ((here, position), (there, anchor)):
            value, gradient = (np.asarray(v) for v in problem.value_and_grad(place))
            for found, exact in ((values[:, None], value[None]), (gradients, gradient)):
                error = found.std(axis=0) / np.sqrt(len(found))
                assert np.all(np.abs(found.mean(axis=0) - exact) < 4.5 * error)


def test_a_correction_at_an_anchor_takes_the_noise_away(line_data):
    """The difference of a line's gradients is linear in the move: its noise is that of x'x."""
    with computing():
        problem = bound(line, line_data)
        position, anchor = np.array([2.5, 0.5]), np.array([2.5, 0.52])
        (_, here), (_, there) = estimates(problem, position, anchor, 500)
    assert np.all((here - there).std(axis=0) < 0.1 * here.std(axis=0))


def test_what_follows_from_the_data_alone_is_computed_once(line_data):
    """The mean of all rows is no part of a step: no reduction over rows is left in it."""
    with computing():
        problem = bound(line, line_data)
        plates = plates_of(problem)
        split = minibatch_gradient(problem, plates)
        place = (np.zeros(2), np.zeros(2), np.zeros(2, np.uint32))
        text = str(jax.make_jaxpr(split.run)(place, prepared_of(problem, plates)))
    sums = [row for row in text.splitlines() if "reduce_sum" in row]
    assert sums
    assert not any(f"f64[{ROWS}]" in row for row in sums)


def test_plates_are_those_with_a_subsample(line_data):
    with computing():
        assert plates_of(bound(line, line_data)) == (("row", ROWS, PART),)
        assert plates_of(bayes.Model(normal_mean).bind({"n": 2, "y": np.arange(2.0)})) == ()


def test_advi_on_subsamples_gives_the_posterior_of_all_data(line_data):
    """Means within 0.1 and standard deviations within 5 % of the exact posterior's.

    The averages of two rounds agree within 0.05 standard deviations; twice that is allowed.
    """
    x = line_data["x"] - line_data["x"].mean()
    design = np.stack([np.ones_like(x), x], axis=1)
    covariance = np.linalg.inv(design.T @ design + np.eye(2) / 4)
    mean, sd = covariance @ design.T @ line_data["y"], np.sqrt(np.diag(covariance))
    method = ADVI(family="full_rank", draws=500)
    post = bayes.fit(line, line_data, method, seed=3)
    normal = post.data["approximation"]
    scales = Normal(*(normal[name].values for name in Normal._fields)).sd
    assert np.all(np.abs(normal["mean"].values - mean) < 0.1 * sd)
    assert np.all(np.abs(scales / sd - 1) < 0.05)
    info = post.method.info
    assert info["not_converged"] == ""
    assert info["subsamples"] == {"row": [ROWS, PART]}
    assert any("posterior is that of all its elements" in n for n in post.diagnostics.notes)
    # The log densities in the end are of all data: their ratios to the approximation's are even.
    assert np.std(post.data["sample_stats"]["lp"] - post.data["sample_stats"]["log_q"]) < 0.3
