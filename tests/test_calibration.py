"""Calibration: planted faults are found, right programs pass, stopped runs go on."""

import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import time
from typing import ClassVar

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import typer
from models_for_tests import normal_mean, regression
from numpyro.contrib.control_flow import scan
from typer.testing import CliRunner

import bayes
from bayes.calibration.ranks import FIELDS
from bayes.calibration.records import Records
from bayes.calibration.simulation import Bench, Task, run_task
from bayes.calibration.uniformity import adjust, chi_square_test, ecdf_bands, ecdf_test
from bayes.cli_calibration import sbc as command
from bayes.compilation import computing
from bayes.design import Design
from bayes.method import Draws, Method

X = np.linspace(-1.0, 1.0, 8)
QUICK = bayes.NUTS(chains=2, warmup=150, draws=150, target_accept=0.9)


@dataclasses.dataclass(frozen=True)
class Conjugate(Method):
    """Independent draws of the exact posterior of ``normal_mean``, or of one that is off."""

    name: ClassVar[str] = ""

    stretch: float = 1.0
    shift: float = 0.0
    refuses_above: float = np.inf
    interrupts_after: int = 10**9

    def check(self, problem):
        pass

    def init(self, problem, key):
        return {"words": np.asarray(jax.random.key_data(key)), "done": np.asarray(False)}

    def step(self, problem, state):
        y = problem.arrays["y"]
        if y.mean() > self.refuses_above:
            raise FloatingPointError("too large")
        precision = 1 / 2.0**2 + len(y) / 1.5**2
        mean, sd = (1.0 / 2.0**2 + y.sum() / 1.5**2) / precision, precision**-0.5
        noise = np.random.default_rng(state["words"]).standard_normal((4, 300))
        mu = mean + sd * (self.shift + self.stretch * noise)
        FITS.append(problem)
        if len(FITS) == self.interrupts_after:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
        return {**state, "done": np.asarray(True)}, {"mu": mu}

    def done(self, problem, state):
        return bool(state["done"])

    def finish(self, problem, state, chunks, key):
        return Draws({"mu": np.concatenate([c["mu"] for c in chunks], axis=1)}, {}, 4)


@pytest.fixture(autouse=True, scope="module")
def _no_type_checks():
    """Many fits take three times as long with them; tests of few fits use ``checked``."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture
def checked():
    """The type checks of all other tests."""
    jaxtyping.config.update("jaxtyping_disable", False)
    yield
    jaxtyping.config.update("jaxtyping_disable", True)


FITS = []
"""Problems that ``Conjugate`` has fitted."""


@pytest.fixture(autouse=True)
def _no_fits():
    FITS.clear()


@pytest.fixture(scope="module")
def exact():
    return bayes.sbc(normal_mean, {"n": 5}, Conjugate(), 100, seed=1)


# ----------------------------------------------------------------------- uniform ranks


def test_exact_draws_of_a_conjugate_posterior_are_calibrated(exact):
    """A false alarm in 100 seeds, and this seed is none."""
    assert exact.ok, exact.verdict
    assert exact.labels == ["mu", "log likelihood"]
    assert exact.verdict.startswith("calibrated: ranks of all 2 elements")
    assert not exact.failures
    assert exact.ranks["mu"].dims == ("simulation",)
    assert set(np.unique(exact.ranks["mu"])) <= set(range(100))


def test_coverage_z_scores_and_contraction_are_those_of_the_conjugate_posterior(exact):
    """Within 4.5 standard errors, 7 comparisons: a false alarm in 20 000."""
    n = 100
    for column, level in zip(exact.coverage, (0.5, 0.8, 0.9, 0.95), strict=True):
        error = np.sqrt(level * (1 - level) / n)
        assert abs(exact.coverage.loc["mu", column] - level) < 4.5 * error
    row = exact.contraction.loc["mu"]
    assert abs(row["z_mean"]) < 4.5 / np.sqrt(n)
    assert abs(row["z_sd"] - 1) < 4.5 / np.sqrt(2 * n)
    # The prior variance is estimated from as many truths.
    left = 1 / (1 + 5 * 2.0**2 / 1.5**2)
    assert abs((1 - row["contraction"]) / left - 1) < 4.5 * np.sqrt(2 / n)


@pytest.mark.parametrize(
    ("fault", "shape", "covered"),
    [
        ({"stretch": 0.5}, "too narrow", 0.59),
        ({"stretch": 2.0}, "too wide", 0.999),
        ({"shift": 0.8}, "too high", 0.78),
        ({"shift": -0.8}, "too low", 0.78),
    ],
)
def test_shapes_are_named(fault, shape, covered):
    """Coverage of 90 % intervals as it follows from normal tails, within 4.5 standard errors."""
    found = bayes.sbc(normal_mean, {"n": 5}, Conjugate(**fault), 50, seed=3)
    assert not found.ok
    assert found.uniformity.loc["mu", "shape"] == shape
    assert f"mu: posteriors are {shape}" in found.verdict
    error = np.sqrt(covered * (1 - covered) / 50)
    assert abs(found.coverage.loc["mu", "90%"] - covered) < 4.5 * error + 0.005


@pytest.mark.usefixtures("checked")
def test_ecdf_test_is_exact():
    """Small cases by hand, and the distribution of p values under uniform ranks."""
    assert ecdf_test(np.array([0, 0]), 1) == pytest.approx(0.5)
    assert ecdf_test(np.array([0, 1]), 1) == pytest.approx(1.0)
    assert ecdf_test(np.zeros(4, int), 1) == pytest.approx(2 * 0.5**4)
    rng = np.random.default_rng(5)
    p = np.array([ecdf_test(rng.integers(0, 100, 60), 99) for _ in range(800)])
    for level in (0.01, 0.05, 0.2, 0.5):
        # Ranks are discrete, so the level is not always reached; 4.5 standard errors: 1 in 70 000.
        error = np.sqrt(level * (1 - level) / len(p))
        assert -0.2 * level - 4.5 * error < (p <= level).mean() - level < 4.5 * error


@pytest.mark.usefixtures("checked")
def test_bands_are_left_as_often_as_they_say():
    position, lower, upper = ecdf_bands(50, 99, 0.1)
    assert position.shape == lower.shape == upper.shape == (99,)
    rng = np.random.default_rng(6)
    ranks = rng.integers(0, 100, (4000, 50))
    below = (ranks[:, None, :] < np.arange(1, 100)[:, None]).mean(axis=2)
    left = ((below < lower) | (below > upper)).any(axis=1).mean()
    assert 0.07 < left < 0.1 + 4.5 * np.sqrt(0.09 / 4000)
    outside = [ecdf_test(r, 99) <= 0.1 for r in ranks[:200]]
    assert outside == ((below < lower) | (below > upper)).any(axis=1)[:200].tolist()


@pytest.mark.usefixtures("checked")
def test_p_values_are_adjusted_as_holm_does():
    found = adjust(np.array([0.01, 0.04, 0.03, 0.5]))
    np.testing.assert_allclose(found, [0.04, 0.09, 0.09, 0.5])
    assert chi_square_test(np.arange(100), 99) == pytest.approx(1.0)
    assert chi_square_test(np.zeros(100, int), 99) < 1e-100


# ----------------------------------------------------------------------- planted faults


def narrow(n, y=None):
    """``normal_mean`` with a prior of a tenth of the scale."""
    mu = numpyro.sample("mu", dist.Normal(1.0, 0.2))
    with numpyro.plate("row", n):
        numpyro.sample("y", dist.Normal(mu, 1.5), obs=y)


def jacobian_twice(n, y=None):
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    numpyro.factor("jacobian", 2 * jnp.log(scale))
    with numpyro.plate("row", n):
        numpyro.sample("y", dist.Normal(0, scale), obs=y)


class Exponential(dist.transforms.ExpTransform):
    """The exponential function with the wrong sign of its log Jacobian."""

    def log_abs_det_jacobian(self, x, y, intermediates=None):
        return -super().log_abs_det_jacobian(x, y, intermediates)


def wrong_bijection(n, y=None):
    scale = numpyro.sample("scale", dist.TransformedDistribution(dist.Normal(), Exponential()))
    with numpyro.plate("row", n):
        numpyro.sample("y", dist.Normal(0, scale), obs=y)


def row_left_out(x, y=None):
    slope = numpyro.sample("slope", dist.Normal(0, 1))
    if y is None:
        numpyro.sample("y", dist.Normal(slope * x, 1))
    else:
        numpyro.sample("y", dist.Normal(slope * x[1:], 1), obs=y[1:])


def chain(n, y, lag):
    slope = numpyro.sample("slope", dist.Uniform(-1, 1))

    def step(past, value):
        new = numpyro.sample("y", dist.Normal(slope * past[lag - 1], 1), obs=value)
        return jnp.stack([new, past[0]]), None

    scan(step, jnp.zeros(2), y, length=n)


def lag_one(n, y=None):
    chain(n, y, 1)


def lag_two(n, y=None):
    chain(n, y, 2)


FAULTS = {
    "prior scale": (narrow, {"n": 5}, normal_mean, 20, "mu"),
    "Jacobian": (jacobian_twice, {"n": 2}, None, 40, "scale"),
    "bijection": (wrong_bijection, {"n": 2}, None, 25, "scale"),
    "row": (row_left_out, {"x": np.array([4.0, 0.5, -0.5])}, None, 20, "log likelihood"),
    "lag": (lag_two, {"n": 20}, lag_one, 20, "slope"),
}


@pytest.mark.parametrize(("program", "data", "right", "n", "where"), FAULTS.values(), ids=FAULTS)
def test_planted_faults_are_found(program, data, right, n, where):
    found = bayes.sbc(program, data, QUICK, n, seed=11, simulate_with=right)
    assert not found.ok
    assert not found.uniformity.loc[where, "ok"]
    assert found.uniformity.loc[where, "p_adjusted"] < 1e-4
    assert found.verdict.startswith("not calibrated: ")
    assert where in found.verdict


def test_right_programs_pass():
    """Two runs: a false alarm in 50, and these seeds are none."""
    result = bayes.sbc(regression, {"x": X}, "nuts", 20, seed=2)
    assert result.ok, result.verdict
    assert result.labels == ["intercept", "slope", "sigma", "log likelihood"]
    result = bayes.sbc(lag_one, {"n": 20}, QUICK, 20, seed=2, simulate_with=lag_one)
    assert result.uniformity["ok"].all(), result.verdict


# ------------------------------------------------------------- how data reach the program


def sized_by_data(y):
    """A program that does not run without its data: ``normal_mean`` of the logarithm."""
    mu = numpyro.sample("mu", dist.Normal(1.0, 2.0))
    with numpyro.plate("row", y.shape[0]):
        numpyro.sample("z", dist.Normal(mu, 1.5), obs=jnp.log(y))


@pytest.mark.usefixtures("checked")
def test_a_program_that_needs_its_data_has_its_sites_observed():
    found = bayes.sbc(sized_by_data, {"y": np.ones(5)}, QUICK, 30, seed=4)
    assert found.labels == ["mu", "log likelihood"]
    assert found.uniformity["ok"].all(), found.verdict
    posterior_sd = (1 / 2.0**2 + 5 / 1.5**2) ** -0.5
    assert np.mean([r.values["sd"][0] for r in found.records]) == pytest.approx(
        posterior_sd, rel=0.03
    )


def softly(n, y=None):
    mu = numpyro.sample("mu", dist.Normal(1.0, 2.0))
    numpyro.sample("pull", dist.Normal(mu, 1.0), obs=0.0)
    with numpyro.plate("row", n):
        numpyro.sample("y", dist.Normal(mu, 1.5), obs=y)


@pytest.mark.parametrize("data", [{"n": 3}, {"n": 3, "y": np.arange(3.0)}], ids=["not given", "y"])
def test_what_a_program_itself_observes_is_drawn_too(data):
    design = Design(bayes.Model(softly), data)
    assert set(design.observed) == {"pull", "y"}
    problem = design.bind(design.draw(3))
    assert {n: s.kind for n, s in problem.sites.items()} == {
        "mu": "latent",
        "pull": "observed",
        "y": "observed",
    }


def test_discrete_and_grouped_sites_are_ranked_by_label():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"g": list("abcabc")}).astype("category")

    def counts(g, n_g, y=None):
        with numpyro.plate("g", n_g):
            level = numpyro.sample("level", dist.Normal(1, 0.5))
        with numpyro.plate("row", g.shape[0]):
            numpyro.sample("y", dist.Poisson(jnp.exp(level[g])), obs=y)

    found = bayes.sbc(counts, frame, QUICK, 20, seed=0)
    assert found.labels == ["level[a]", "level[b]", "level[c]", "log likelihood"]
    assert found.ranks["level"].dims == ("simulation", "g")
    assert found.ranks["level"].sel(g="b").shape == (20,)


def test_a_reparametrised_program_ranks_its_sites_as_written():
    def groups(n, y=None):
        scale = numpyro.sample("scale", dist.HalfNormal(1))
        with numpyro.plate("group", n):
            level = numpyro.sample("level", dist.Normal(0, scale))
            numpyro.sample("y", dist.Normal(level, 1), obs=y)

    found = bayes.sbc(groups, {"n": 2}, QUICK, 20, seed=0, reparam="auto")
    assert found.labels == ["scale", "level[0]", "level[1]", "log likelihood"]


def test_what_cannot_be_drawn_from_is_refused():
    def flat(n, y=None):
        mu = numpyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
        with numpyro.plate("row", n):
            numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    def factor(x):
        mu = numpyro.sample("mu", dist.Normal())
        numpyro.factor("likelihood", -((x - mu) ** 2).sum())

    def elsewhere(n, data=None):
        mu = numpyro.sample("mu", dist.Normal())
        with numpyro.plate("row", n):
            numpyro.sample("y", dist.Normal(mu, 1), obs=data)

    with pytest.raises(bayes.UnsupportedModelError, match="prior of mu is improper"):
        bayes.sbc(flat, {"n": 2})
    with pytest.raises(bayes.UnsupportedModelError, match=r"numpyro\.factor, from which no data"):
        bayes.sbc(factor, {"x": X})
    with pytest.raises(bayes.UnsupportedModelError, match="give data "):
        bayes.sbc(elsewhere, {"n": 2})
    Bench(Task(bayes.Model(elsewhere), {"n": 2, "data": [0.0, 0.0]}, Conjugate(), 0, None, {}))


def test_programs_that_do_not_go_together_are_refused():
    with pytest.raises(bayes.SettingsError, match=r"site 'mu'.*regression draws no such site"):
        bayes.sbc(normal_mean, {"n": 8, "x": X}, simulate_with=regression)


def test_options_that_make_no_sense_are_refused():
    for options, words in (
        ({"simulations": 19}, "simulations must be a whole number, 20 at least"),
        ({"simulations": 1.5e2}, "simulations must be a whole number"),
        ({"seed": -1}, "seed"),
        ({"method": "nut"}, "no method 'nut'"),
        ({"method": bayes.NUTS(store="draws.zarr")}, "leave store and keep out"),
        ({"method": Conjugate(), "statistics": {"mu": lambda sites: 0.0}}, "statistic 'mu'"),
    ):
        with pytest.raises(bayes.SettingsError, match=words):
            bayes.sbc(normal_mean, {"n": 2}, **options)


# ---------------------------------------------------------------------- fits and runs


@pytest.mark.usefixtures("checked")
def test_statistics_of_the_user_are_ranked():
    statistics = {
        "square": lambda sites: sites["mu"] ** 2,
        "distance": lambda sites: np.abs(sites["y"] - sites["mu"])[:2],
    }
    found = bayes.sbc(normal_mean, {"n": 5}, Conjugate(), 20, seed=1, statistics=statistics)
    assert found.labels[2:] == ["square", "distance[0]", "distance[1]"]
    np.testing.assert_allclose(found.truth["square"], found.truth["mu"] ** 2)


def test_fits_that_raise_are_recorded():
    found = bayes.sbc(normal_mean, {"n": 5}, Conjugate(refuses_above=2.0), 40, seed=1)
    assert len(found.failures) > 4
    assert set(found.failures.values()) == {"FloatingPointError: too large"}
    assert found.ranks.sizes["simulation"] == 40 - len(found.failures)
    assert not found.ok
    assert f"{len(found.failures)} of 40 fits failed" in found.verdict
    assert "more than a tenth" in found.verdict
    with pytest.raises(bayes.NoDrawsError, match=r"fits raised; simulation \d+: FloatingPoint"):
        bayes.sbc(normal_mean, {"n": 5}, Conjugate(refuses_above=-9.0), 20)


def test_fits_that_fail_their_checks_are_counted_and_ranked():
    method = bayes.NUTS(chains=2, warmup=60, draws=60, target_accept=0.9)
    found = bayes.sbc(normal_mean, {"n": 5}, method, 20)
    assert len(found.failures) == 20
    assert found.ranks.sizes["simulation"] == 20
    assert "ess_bulk" in found.verdict
    assert found.verdict.startswith("not to be judged")


def test_nothing_is_compiled_after_the_first_fit():
    task = Task(bayes.Model(regression), {"x": X}, bayes.NUTS(), 7, None, {})
    with computing():
        bench = Bench(task)
    run_task(task, [0], bench)
    compiled = []

    def listen(event, seconds, **details):
        if "backend_compile" in event:
            compiled.append(details.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        records = run_task(task, [1, 2, 3, 4], bench)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert compiled == []
    assert all(r.values for r in records)


def same(one, other):
    assert [r.number for r in one.records] == [r.number for r in other.records]
    for a, b in zip(one.records, other.records, strict=True):
        for field in FIELDS:
            np.testing.assert_array_equal(a.values[field], b.values[field])


class Stopped(BaseException):
    """What ends a run in the middle."""


@pytest.mark.usefixtures("checked")
def test_a_stopped_run_goes_on(tmp_path, monkeypatch):
    save, saved = Records.save, []

    def stop(self, record):
        if len(saved) == 12:
            raise Stopped
        saved.append(record.number)
        save(self, record)

    run = (normal_mean, {"n": 5}, Conjugate(), 25)
    with monkeypatch.context() as patch:
        patch.setattr(Records, "save", stop)
        with pytest.raises(Stopped):
            bayes.sbc(*run, seed=3, folder=tmp_path / "c")
    (tmp_path / "c" / "simulation.npz.part").write_bytes(b"half")
    FITS.clear()
    resumed = bayes.sbc(*run, seed=3, folder=tmp_path / "c")
    assert len(FITS) == 13
    same(resumed, bayes.sbc(*run, seed=3))
    FITS.clear()
    more = bayes.sbc(*run[:3], 30, seed=3, folder=tmp_path / "c")
    assert len(FITS) == 5
    assert [r.number for r in more.records] == list(range(30))


def test_another_runs_folder_is_refused(tmp_path):
    folder = tmp_path / "c"
    bayes.sbc(normal_mean, {"n": 5}, Conjugate(), 20, folder=folder)
    for changed, words in (
        ({"seed": 1}, "log density"),
        ({"method": Conjugate(stretch=2.0)}, "settings"),
        ({"data": {"n": 6}}, "site 'y' differs"),
        ({"simulate_with": narrow}, "log density"),
        ({"statistics": {"one": lambda sites: sites["mu"]}}, "quantities"),
    ):
        options = {"data": {"n": 5}, "method": Conjugate(), "folder": folder, **changed}
        with pytest.raises(bayes.FileError, match=words):
            bayes.sbc(normal_mean, simulations=20, **options)
    file = sorted(folder.glob("simulation*.npz"))[3]
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(bayes.FileError, match="damaged"):
        bayes.sbc(normal_mean, {"n": 5}, Conjugate(), 20, folder=folder)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(bayes.FileError, match="not a calibration"):
        bayes.sbc(normal_mean, {"n": 5}, Conjugate(), 20, folder=tmp_path)


def test_ctrl_c_keeps_what_is_done(tmp_path):
    method = Conjugate(interrupts_after=25)
    found = bayes.sbc(normal_mean, {"n": 5}, method, 200)
    assert found.interrupted == "keyboard"
    assert 20 <= len(found.records) < 30
    assert "stopped early (keyboard)" in found.verdict
    FITS.clear()
    with pytest.raises(bayes.NoDrawsError, match=r"\(keyboard\) after .* folder="):
        bayes.sbc(normal_mean, {"n": 5}, Conjugate(interrupts_after=5), 200, folder=tmp_path / "c")
    assert any((tmp_path / "c").glob("simulation*.npz"))


class Pickling(concurrent.futures.Executor):
    """Runs what it is given after it went through pickle, in reverse order of submission."""

    def __init__(self):
        self.jobs = []

    def submit(self, fn, /, *args, **kwargs):
        self.jobs.append(pickle.dumps((fn, args, kwargs)))
        future = concurrent.futures.Future()
        fn, args, kwargs = pickle.loads(self.jobs[-1])
        future.set_result(fn(*args, **kwargs))
        return future


def test_an_executor_gives_the_same_results(monkeypatch):
    monkeypatch.setattr("bayes.calibration.sbc._JOBS", 8)
    run = (normal_mean, {"n": 5}, Conjugate(), 20)
    here, executor = bayes.sbc(*run, seed=3), Pickling()
    same(here, bayes.sbc(*run, seed=3, executor=executor))
    assert len(executor.jobs) == 7
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        same(here, bayes.sbc(*run, seed=3, executor=threads))


def test_what_cannot_be_pickled_is_refused():
    def local(n, y=None):
        normal_mean(n, y)

    with pytest.raises(bayes.SettingsError, match=r"cannot pickle.*in a module"):
        bayes.sbc(local, {"n": 5}, Conjugate(), 20, executor=Pickling())


@pytest.mark.slow
def test_processes_give_the_same_results():
    context = multiprocessing.get_context("spawn")
    run = (regression, {"x": X}, "nuts", 24)
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as processes:
        same(bayes.sbc(*run, seed=3), bayes.sbc(*run, seed=3, executor=processes))


CHILD = """
import sys
sys.path.insert(0, {tests!r})
import bayes
from models_for_tests import normal_mean
bayes.sbc(normal_mean, {{"n": 5}}, "nuts", 200, seed=3, folder={folder!r})
print("done")
"""


@pytest.mark.slow
def test_killed_again_and_again_gives_the_same_results(tmp_path):
    folder, rng = tmp_path / "c", np.random.default_rng(0)
    tests = str(pathlib.Path(__file__).parent)
    for _ in range(4):
        code = CHILD.format(tests=tests, folder=str(folder))
        process = subprocess.Popen([sys.executable, "-c", code])
        before = len(list(folder.glob("simulation*.npz"))) if folder.exists() else 0
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if folder.exists() and len(list(folder.glob("simulation*.npz"))) > before + 5:
                break
            time.sleep(0.002)
        time.sleep(rng.uniform(0.0, 0.05))
        assert process.poll() is None, "the run ended before it could be killed"
        process.kill()
        process.wait()
    assert 20 < len(list(folder.glob("simulation*.npz"))) < 200
    run = (normal_mean, {"n": 5}, "nuts", 200)
    same(bayes.sbc(*run, seed=3, folder=folder), bayes.sbc(*run, seed=3))


# --------------------------------------------------------------------------- shown


@pytest.mark.usefixtures("checked")
def test_tables_and_json(exact):
    table = exact.summary()
    assert list(table.index) == exact.labels
    assert {"p_chi2", "p_ecdf", "p_adjusted", "ok", "90%", "z_sd", "contraction"} <= set(table)
    values = json.loads(json.dumps(exact.to_dict(), allow_nan=False))
    assert values["ok"] is True
    assert values["elements"]["mu"]["90%"] == table.loc["mu", "90%"]
    assert len(values["ranks"]["log likelihood"]) == 100
    assert "Calibration of normal_mean" in repr(exact)
    assert "<table" in exact._repr_html_()


@pytest.mark.usefixtures("checked")
def test_figures(exact):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    figure = exact.plot()
    assert [a.get_title() for a in figure.axes] == exact.labels
    line = figure.axes[0].lines[-1]
    assert np.abs(line.get_ydata()).max() < 0.2
    assert len(exact.plot_contraction(["mu"]).axes) == 1
    assert not pyplot.get_fignums()
    with pytest.raises(bayes.SettingsError, match="no element 'nu'; there are mu"):
        exact.plot(["nu"])


FILE = """
import numpyro
import numpyro.distributions as dist


def model(n, y=None):
    mu = numpyro.sample("mu", dist.Normal(1.0, 2.0))
    numpyro.factor("shift", {factor} * mu)
    with numpyro.plate("row", n):
        numpyro.sample("y", dist.Normal(mu, 1.5), obs=y)


def data():
    return {{"n": 3}}
"""


def test_command_line(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(sys, "path", list(sys.path))
    app = typer.Typer()
    app.command()(command)

    def run(factor, *options):
        (tmp_path / "model.py").write_text(FILE.format(factor=factor))
        return CliRunner().invoke(app, [str(tmp_path / "model.py"), *map(str, options)])

    plot = tmp_path / "ranks.svg"
    out = run(0, "--simulations", 20, "--folder", tmp_path / "c", "--plot", plot)
    assert out.exit_code == 0, out.output
    assert "calibrated: ranks of all 2 elements are uniform" in out.stdout
    assert "<svg" in plot.read_text()
    out = run(3, "--simulations", 20)
    assert out.exit_code == 3
    assert "mu: posteriors are too high" in out.stdout
    out = run(0, "--simulations", 2)
    assert out.exit_code == 2
    assert out.stderr.startswith("bayes: SettingsError: simulations must be")
    out = run(0, "--plot", "ranks.gif")
    assert out.exit_code == 2
