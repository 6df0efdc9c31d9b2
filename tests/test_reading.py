"""Programs read by tracing them once: the same as running them as they are written."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import monitoring
from models_for_tests import SCHOOLS_DATA, funnel, regression, schools
from numpyro.distributions import constraints

import bayes
from bayes.data import Data, Signature
from bayes.gallery import gallery_names
from bayes.model import as_model
from bayes.reading import Reading, read_program

RNG = np.random.default_rng(0)
X = RNG.normal(size=20)
GROUP = np.arange(20) % 4


def read(fn, data):
    with jax.enable_x64(True):
        return read_program(fn, Data.read(data, Signature.of(fn)))


def grouped(g, x, y=None):
    scale = numpyro.sample("scale", dist.HalfNormal(2.0))
    with numpyro.plate("group", 4):
        a = numpyro.sample("a", dist.Normal(0, scale))
    b = numpyro.sample("b", dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2) + 0.3))
    mean = numpyro.deterministic("mean", a[g] + b[0] * x)
    numpyro.factor("soft", -(jnp.sum(a) ** 2))
    with numpyro.handlers.mask(mask=x > -1):
        numpyro.sample("y", dist.StudentT(4.0, mean, jnp.exp(b[1])), obs=jnp.log(y) + 0 * x)


def simplexes(n, counts=None):
    p = numpyro.sample("p", dist.Uniform(0.2, 0.4).expand([2]).to_event(1))
    shares = jnp.concatenate([p, 1 - p.sum(keepdims=True)])
    flat = numpyro.sample("flat", dist.ImproperUniform(constraints.positive, (), ()))
    numpyro.sample("cut", dist.TruncatedNormal(flat, 1.0, low=0.0))
    numpyro.sample("counts", dist.Multinomial(n, shares), obs=counts)


PROGRAMS = [
    (schools, SCHOOLS_DATA),
    (regression, {"x": X, "y": X + 1}),
    (funnel, {}),
    (grouped, {"g": GROUP, "x": X, "y": np.exp(X)}),
    (simplexes, {"n": 10, "counts": np.array([2, 3, 5])}),
]


@pytest.mark.parametrize(("fn", "data"), PROGRAMS, ids=[fn.__name__ for fn, _ in PROGRAMS])
def test_what_is_read_is_what_a_run_gives(fn, data):
    found = read(fn, data)
    assert type(found) is not Reading
    with jax.enable_x64(True):
        written = Reading(fn, found.data)
        assert found.sources == written.sources
        assert found.check_indices() is None
        for seed in range(2):
            a, b = found.trace(seed), written.trace(seed)
            assert list(a) == list(b)
            for name in a:
                assert_same_site(a[name], b[name])


def assert_same_site(a, b):
    assert a["type"] == b["type"]
    if a["type"] == "plate":
        assert a["args"] == b["args"]
        return
    one, two = (jax.tree.flatten((s["value"], s.get("fn"))) for s in (a, b))
    assert one[1] == two[1]
    for x, y in zip(one[0], two[0], strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-9)
        assert not isinstance(x, jax.Array)
    if a["type"] == "sample":
        assert a["is_observed"] == b["is_observed"]
        assert a["cond_indep_stack"] == b["cond_indep_stack"]


@pytest.mark.parametrize("name", gallery_names())
def test_models_of_the_gallery_are_not_run(name):
    entry = bayes.gallery(name)
    assert type(read(as_model(entry.model).fn, entry.data())) is not Reading


def with_python_branch(x, y=None):
    slope = numpyro.sample("slope", dist.Normal(0, 1.0 if float(x.mean()) > 0 else 2.0))
    numpyro.sample("y", dist.Normal(slope * x, 1), obs=y)


class Hidden(dist.Normal):
    """A distribution with a number that its leaves do not tell."""

    def __init__(self, loc, scale, shift):
        self.shift = shift
        super().__init__(loc, scale)


def with_hidden_number(x, y=None):
    slope = numpyro.sample("slope", Hidden(0.0, 1.0, x.mean()))
    numpyro.sample("y", dist.Normal(slope * x, 1), obs=y)


def with_long_loop(x, y=None):
    slope = numpyro.sample("slope", dist.Normal(0, 1))
    start = jax.lax.fori_loop(0, 50_000, lambda i, v: v * 0.5, slope)
    numpyro.sample("y", dist.Normal(start + slope * x, 1), obs=y)


@pytest.mark.parametrize("fn", [with_python_branch, with_hidden_number, with_long_loop])
def test_program_that_cannot_be_evaluated_runs_as_it_is_written(fn):
    assert type(read(fn, {"x": X, "y": X})) is Reading
    assert bayes.Model(fn).bind({"x": X, "y": X}).observed_arguments == ("y",)


def test_program_that_fails_is_run_to_say_why():
    def program(x, y=None):
        numpyro.sample("y", dist.Normal(x @ jnp.ones(3), 1), obs=y)

    reading = read(program, {"x": X, "y": X})
    with pytest.raises(bayes.ShapeError, match=r"data: x \(20,\)"):
        reading.trace(0)


def test_constant_that_equals_the_data_is_not_made_of_them():
    def program(x, y=None):
        slope = numpyro.sample("slope", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(slope * x, 1), obs=jnp.asarray(X) * 2)

    assert read(program, {"x": X}).sources == {"y": ()}


def test_identity_tells_values_of_sites_apart():
    def with_shift(shift):
        def program(x, y=None):
            slope = numpyro.sample("slope", dist.Normal(0, 1))
            numpyro.deterministic("moved", slope + shift)
            numpyro.sample("y", dist.Normal(slope * x, 1), obs=y)

        return program

    one, same, other = (read(with_shift(s), {"x": X, "y": X}).identity for s in (1.0, 1.0, 2.0))
    assert one == same != other
    assert read(with_shift(1.0), {"x": 2 * X, "y": X + 1}).identity == one


def test_binding_compiles_nothing():
    compiled, here = [], threading.get_ident()

    def listen(event, duration, **details):
        # What an earlier fit compiles ahead may still be under way in another thread.
        if event.endswith("backend_compile_duration") and threading.get_ident() == here:
            compiled.append(details.get("fun_name"))

    monitoring.register_event_duration_secs_listener(listen)
    try:
        bayes.Model(grouped).bind({"g": GROUP, "x": X, "y": np.exp(X)})
    finally:
        monitoring.unregister_event_duration_listener(listen)
    assert compiled == []
