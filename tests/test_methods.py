"""The contract of methods, held by every method that is found."""

import dataclasses
import functools
import json
import pathlib
import re

import jax
import numpy as np
import pytest
from arviz_stats.base import array_stats
from models_for_tests import SCHOOLS_DATA, STRUCTURED, Own, normal_mean, schools

import bayes
from bayes.compilation import computing
from bayes.gallery import load_file
from bayes.method import Draws, Method, Progress, fitting_methods, method_by_name, methods

ROOT = pathlib.Path(__file__).parent.parent
NAMES = sorted(methods())
Y = np.array([0.3, 2.1, -0.7, 1.9, 0.4])
PRECISION = 1 / 2.0**2 + 5 / 1.5**2
MEAN, SD = (1.0 / 2.0**2 + Y.sum() / 1.5**2) / PRECISION, PRECISION**-0.5

# What methods that take any program are held to; those of a structure have programs of their own.
ANY = Own(
    program=schools,
    data=SCHOOLS_DATA,
    shapes={"theta": (8,), "mu": (), "tau": ()},
    positive="tau",
    varying="mu",
    exact=normal_mean,
    exact_data={"n": 5, "y": Y},
    site="mu",
    mean=np.asarray(MEAN),
    sd=np.asarray(SD),
)


def quick(name: str) -> Method:
    """A method with few iterations, where it has settings of that kind."""
    method = method_by_name(name)
    fields = {f.name for f in dataclasses.fields(method)}
    short = {"chains": 2, "warmup": 100, "draws": 120, "target_accept": 0.9}
    return dataclasses.replace(method, **{k: v for k, v in short.items() if k in fields})


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def own(name):
    """The programs that this method is held to."""
    return STRUCTURED[name] if methods()[name].structured else ANY


@functools.cache
def bound(program):
    """Its data bound once, whatever the method."""
    data = next(o.data for o in (ANY, *STRUCTURED.values()) if o.program is program)
    with computing():
        return bayes.Model(program, reparam="auto").bind(data)


@pytest.fixture
def problem(own):
    return bound(own.program)


def collect(method, problem, state, most=None):
    chunks = []
    while not method.done(problem, state) and (most is None or len(chunks) < most):
        state, chunk = method.step(problem, state)
        if chunk is not None:
            chunks.append(chunk)
    return state, chunks


def test_there_are_methods():
    assert {"nuts", "hmc"} <= set(NAMES)


def test_a_conjugate_posterior_is_exact(name, own):
    """|z| < 4.5 in Monte Carlo standard errors: a false alarm in 150 000 of each number."""
    post = bayes.fit(own.exact, own.exact_data, name, seed=11)
    draws = post.draws(own.site).values
    axes = {"chain_axis": 0, "draw_axis": 1}
    for place in np.ndindex(own.mean.shape):
        x, mean, sd = draws[:, :, *place], own.mean[place], own.sd[place]
        for values, exact in ((x, mean), ((x - mean) ** 2, sd**2)):
            error = values.std() / np.sqrt(array_stats.ess(values, method="mean", **axes))
            assert abs(values.mean() - exact) / error < 4.5


def test_settings_are_frozen_and_json(name):
    method = method_by_name(name)
    assert dataclasses.is_dataclass(method)
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.chains = 3
    assert json.loads(json.dumps(method.settings())) == method.settings()


def test_the_state_is_a_pytree_of_arrays(name, problem):
    method = quick(name)
    with computing():
        state = method.init(problem, jax.random.key(0))
        state, _ = method.step(problem, state)
    for leaf in jax.tree.leaves(state):
        assert isinstance(leaf, (np.ndarray, np.generic, jax.Array)), type(leaf)
        assert np.asarray(leaf).dtype.kind in "biuf"


def test_same_key_same_bits_other_key_other_draws(name, own, problem):
    method = quick(name)

    def run(seed):
        with computing():
            state = method.init(problem, jax.random.key(seed))
            state, chunks = collect(method, problem, state)
            return method.finish(problem, state, chunks, jax.random.key(9))

    first, second, other = run(0), run(0), run(1)
    for site, value in first.values.items():
        np.testing.assert_array_equal(value, second.values[site])
    assert not np.array_equal(first.values[own.varying], other.values[own.varying])


def test_a_state_that_went_through_a_file_goes_on_to_the_bit(name, problem, tmp_path):
    method = quick(name)
    with computing():
        state = method.init(problem, jax.random.key(0))
        whole, chunks = collect(method, problem, state)
        expected = method.finish(problem, whole, chunks, jax.random.key(9))

        state = method.init(problem, jax.random.key(0))
        kept = []
        while not method.done(problem, state):
            leaves, structure = jax.tree.flatten(state)
            np.savez(tmp_path / "s.npz", *[np.asarray(leaf) for leaf in leaves])
            with np.load(tmp_path / "s.npz", allow_pickle=False) as file:
                state = jax.tree.unflatten(structure, [file[n] for n in file.files])
            state, chunk = method.step(problem, state)
            if chunk is not None:
                kept.append(chunk)
        found = method.finish(problem, state, kept, jax.random.key(9))
    for site, value in expected.values.items():
        np.testing.assert_array_equal(value, found.values[site])


def test_a_run_that_was_cut_short_has_draws(name, own, problem):
    method = quick(name)
    with computing():
        state = method.init(problem, jax.random.key(0))
        state, chunks = collect(method, problem, state, most=1)
        draws = method.finish(problem, state, chunks, jax.random.key(9))
    assert draws.values[own.varying].shape[2:] == own.shapes[own.varying]
    assert all(np.isfinite(v).all() for v in draws.values.values())


def test_draws_are_of_the_original_sites_on_the_constrained_space(name, own, problem):
    method = quick(name)
    with computing():
        state = method.init(problem, jax.random.key(0))
        state, chunks = collect(method, problem, state)
        draws = method.finish(problem, state, chunks, jax.random.key(9))
    assert isinstance(draws, Draws)
    assert set(problem.parameters) <= set(draws.values)
    for site, shape in own.shapes.items():
        assert draws.values[site].shape[2:] == shape
    assert (draws.values[own.positive] > 0).all()
    if not method.exact and method.refinable:
        assert draws.log_q is not None
    progress = method.progress(problem, state)
    assert progress is None or (isinstance(progress, Progress) and progress.done <= progress.total)


def test_an_unknown_method_is_refused_with_those_that_exist():
    with pytest.raises(bayes.SettingsError, match=r"no method 'nutz'.*hmc.*nuts.*did you mean"):
        bayes.fit(normal_mean, {"n": 5, "y": Y}, "nutz")


def test_a_class_in_place_of_a_method_is_refused(unchecked):
    with pytest.raises(bayes.SettingsError, match=r"pass NUTS\(\)"):
        bayes.fit(normal_mean, {"n": 5, "y": Y}, bayes.NUTS)


def test_auto_says_why():
    post = bayes.fit(normal_mean, {"n": 5, "y": Y}, "auto", seed=1)
    assert post.method.name == "nuts"
    assert "exact" in post.method.reason


def test_methods_that_fit_a_problem_are_listed(name, problem):
    """A structured method is for programs of its structure alone."""
    assert {"nuts", "hmc", name} <= set(fitting_methods(problem))
    assert (name in fitting_methods(bound(schools))) is not methods()[name].structured


def test_the_example_in_contributing_is_a_method(tmp_path):
    text = (ROOT / "CONTRIBUTING.md").read_text()
    code = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)[-1]
    # Its class is no subclass of Method that other tests would find: it has no name there.
    path = tmp_path / "random_walk.py"
    path.write_text(code.replace('name: ClassVar[str] = "random_walk"', 'name: ClassVar[str] = ""'))
    module = load_file(path)
    walk = module.RandomWalk(draws=8000, scale=1.5)
    post = bayes.fit(normal_mean, {"n": 5, "y": Y}, walk, seed=2)
    draws = post.draws("mu").values
    error = draws.std() / np.sqrt(array_stats.ess(draws, method="mean", chain_axis=0, draw_axis=1))
    assert abs(draws.mean() - MEAN) / error < 4.5
