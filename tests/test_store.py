"""Draws that go to a folder block by block: the same bits, whatever happens on the way."""

import itertools
import os
import pathlib
import subprocess
import sys
import tracemalloc

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models_for_tests import SCHOOLS_DATA, schools

import bayes
from bayes.checkpoint import Checkpoint
from bayes.compilation import computing
from bayes.diagnostics.assessment import assess
from bayes.diagnostics.convergence import convergence, separate_groups
from bayes.draw_store import DrawStore, digest
from bayes.driver import drive
from bayes.fit import run_identity
from bayes.inference import pacing
from bayes.method import describe
from bayes.stored_draws import StoredDraws
from bayes.threefry import seed_key, split_key

FIXED = {"chains": 2, "warmup": 100, "draws": 120, "target_accept": 0.9}
SITES = ("mu", "tau", "theta")

pytestmark = pytest.mark.filterwarnings("ignore::bayes.ConvergenceWarning")


def run(method, seed=0, data=SCHOOLS_DATA, **options):
    return bayes.fit(schools, data, method, seed=seed, reparam="auto", **options)


def assert_same_draws(one, two):
    for group in ("posterior", "auxiliary"):
        a, b = one.data[group].to_dataset(), two.data[group].to_dataset()
        assert list(a.data_vars) == list(b.data_vars)
        assert a.identical(b) if group == "auxiliary" else a.equals(b)
    assert one.data["sample_stats"].to_dataset().equals(two.data["sample_stats"].to_dataset())


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store") / "draws.zarr"
    return run(bayes.NUTS(**FIXED, store=folder)), folder


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of few draws, so that a run has many of them."""
    monkeypatch.setattr(pacing, "BLOCK_SECONDS", 0.002)


# --------------------------------------------------------------------------- the same draws


@pytest.mark.parametrize("sampler", [bayes.NUTS, bayes.HMC])
@pytest.mark.usefixtures("small_blocks")
def test_draws_and_verdict_are_those_of_a_run_in_memory(sampler, tmp_path):
    plain = run(sampler(**FIXED))
    post = run(sampler(**FIXED, store=tmp_path / "d.zarr"))
    assert_same_draws(plain, post)
    assert str(plain.diagnostics) == str(post.diagnostics)


def test_it_ends_when_there_are_enough_draws(tmp_path):
    settings = {"warmup": 200, "target_accept": 0.9}
    plain = run(bayes.NUTS(**settings))
    post = run(bayes.NUTS(**settings, store=tmp_path / "d.zarr"))
    assert_same_draws(plain, post)
    assert post.diagnostics.ok


@pytest.mark.usefixtures("small_blocks")
def test_kept_sites_and_thinned_draws_go_there_alone(tmp_path):
    settings = {**FIXED, "thin": 3, "keep": ["mu", "theta"]}
    plain = run(bayes.NUTS(**settings))
    post = run(bayes.NUTS(**settings, store=tmp_path / "d.zarr"))
    for site in ("mu", "theta"):
        np.testing.assert_array_equal(plain.draws(site), post.draws(site))
    folders = {f.name for f in (tmp_path / "d.zarr").iterdir() if f.is_dir()}
    assert folders == {"mu", "theta"}


def test_nothing_is_read_before_it_is_asked_for(stored, monkeypatch):
    post, _ = stored
    read = []
    original = StoredDraws.__getitem__

    def counting(self, key):
        found = original(self, key)
        read.append(found.shape)
        return found

    monkeypatch.setattr(StoredDraws, "__getitem__", counting)
    theta = post.data["posterior"]["theta"]
    some = theta.isel(school=3, draw=slice(None, None, 2))
    assert not read
    np.testing.assert_array_equal(some.values, theta.values[:, ::2, 3])
    assert read == [(2, 60), (2, 120, 8)]
    backwards = theta[:, ::-1][1, [3, 5]].values
    np.testing.assert_array_equal(backwards, theta.values[1, ::-1][[3, 5]])


def test_xarray_opens_the_folder(stored):
    import xarray as xr

    post, folder = stored
    opened = xr.open_zarr(folder)
    assert opened["theta"].dims == ("chain", "draw", "school")
    for site in SITES:
        np.testing.assert_array_equal(opened[site], post.draws(site))


def test_summary_prediction_and_a_saved_copy_need_nothing_else(stored, tmp_path):
    post, _ = stored
    plain = run(bayes.NUTS(**FIXED))
    assert post.summary(var_names=["mu"]).equals(plain.summary(var_names=["mu"]))
    one, two = (p.predict(seed=3)["posterior_predictive"].to_dataset() for p in (post, plain))
    assert one.identical(two)
    post.save(tmp_path / "post.zarr")
    loaded = bayes.load(tmp_path / "post.zarr", model=schools)
    assert_same_draws(plain, loaded)


def test_the_setting_is_described_by_its_path(tmp_path):
    assert describe(tmp_path) == str(tmp_path)
    assert bayes.NUTS(store=tmp_path / "a").settings()["store"] == str(tmp_path / "a")
    assert "store" not in bayes.NUTS().settings()


@pytest.mark.parametrize("store", ["", 3])
def test_what_is_no_path_is_refused(unchecked, store):
    with pytest.raises(bayes.SettingsError, match="store must be the path"):
        bayes.NUTS(store=store)


def test_a_site_whose_name_is_no_folder_is_refused(tmp_path):
    def nested(y=None):
        numpyro.sample("y", dist.Normal(numpyro.sample("a/b", dist.Normal(0, 1)), 1), obs=y)

    with pytest.raises(bayes.SettingsError, match="cannot hold site 'a/b'"):
        bayes.fit(nested, {"y": 1.0}, bayes.NUTS(**FIXED, store=tmp_path / "d.zarr"))


# ------------------------------------------------------------------------- interrupted runs


def _bind():
    return bayes.Model(schools, reparam="auto").bind(SCHOOLS_DATA)


def _walk(method, problem, kept, seed, until):
    """Run by hand as the driver does, until some draws are there; then a block that is lost."""
    state = method.init(problem, split_key(seed_key(seed))[0])
    while int(state["draws"]) < until:
        state, chunk = method.step(problem, state)
        kept.save(state, chunk)
    assert not method.done(problem, state)
    method.step(problem, state)
    return state


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("settings", [{}, {"thin": 3, "keep": ["theta"]}])
@pytest.mark.parametrize("until", [1, 40])
def test_a_run_that_was_killed_goes_on_to_the_bit(settings, until, tmp_path):
    plain = run(bayes.NUTS(**FIXED, **settings), seed=4)
    method = bayes.NUTS(**FIXED, **settings, store=tmp_path / "d.zarr")
    with computing():
        problem = _bind()
        kept = Checkpoint(tmp_path / "c", run_identity(problem, method, 4))
        _walk(method, problem, kept, 4, until)
    post = run(method, seed=4, checkpoint=tmp_path / "c")
    for site in method.keep or SITES:
        np.testing.assert_array_equal(plain.draws(site), post.draws(site))
    again = run(method, seed=4, checkpoint=tmp_path / "c")
    for site in method.keep or SITES:
        np.testing.assert_array_equal(plain.draws(site), again.draws(site))


@pytest.mark.usefixtures("small_blocks")
def test_a_run_that_was_stopped_has_the_draws_so_far_and_goes_on(tmp_path):
    plain = run(bayes.NUTS(**FIXED))
    method = bayes.NUTS(**FIXED, store=tmp_path / "d.zarr")
    lengths = []
    for number in range(400):
        try:  # longer and longer: a busy machine may not get through a block in so little time
            post = run(method, checkpoint=tmp_path / "c", budget=0.05 * 1.03**number)
        except bayes.NoDrawsError:
            continue
        draws = post.draws("theta").values
        lengths.append(draws.shape[1])
        np.testing.assert_array_equal(draws, plain.draws("theta").values[:, : lengths[-1]])
        if post.diagnostics.interrupted is None:
            break
    assert lengths[-1] == 120


@pytest.mark.usefixtures("small_blocks")
def test_a_round_that_begins_anew_begins_at_the_first_row(tmp_path):
    method = bayes.NUTS(**FIXED, store=tmp_path / "d.zarr")
    with computing():
        problem = _bind()
        state = method.init(problem, split_key(seed_key(0))[0])
        chunks = []
        while int(state["draws"]) < 50:
            state, chunk = method.step(problem, state)
            chunks += [] if chunk is None else [chunk]
        state = method._begin_sampling(problem, state)
        # The run may be stopped here: the draws of the round before are still there.
        before = method.finish(problem, state, chunks, seed_key(1))
        assert before.values["mu"].shape[1] >= 50
        first = np.asarray(before.values["mu"])
        while not method.done(problem, state):
            state, chunk = method.step(problem, state)
            chunks.append(chunk)
        after = method.finish(problem, state, chunks, seed_key(1))
        assert after.values["mu"].shape == (2, 120)
        assert not np.array_equal(after.values["mu"][:, :10], first[:, :10])
        with pytest.raises(bayes.FileError, match="no longer has the draws of 'mu'"):
            np.asarray(before.values["mu"])
        # What is left of the earlier round is not taken for its draws.
        cut = [c for c in chunks if int(c["round"]) == 1]
        with pytest.raises(bayes.FileError, match="does not have the draws so far"):
            method.finish(problem, state, cut, seed_key(1))


@pytest.mark.usefixtures("small_blocks")
def test_a_checkpoint_without_its_folder_is_refused(tmp_path):
    method = bayes.NUTS(**FIXED, store=tmp_path / "d.zarr")
    with computing():
        problem = _bind()
        kept = Checkpoint(tmp_path / "c", run_identity(problem, method, 0))
        _walk(method, problem, kept, 0, 20)
        (tmp_path / "d.zarr").rename(tmp_path / "elsewhere.zarr")
        again = Checkpoint(tmp_path / "c", run_identity(problem, method, 0))
        with pytest.raises(bayes.FileError, match="does not have the draws so far"):
            drive(problem, method, 0, checkpoint=again)


# --------------------------------------------------------------------------- other folders


def test_the_same_run_may_begin_anew(tmp_path):
    method = bayes.NUTS(**FIXED, store=tmp_path / "d.zarr")
    first = run(method)
    before = first.draws("theta").values
    np.testing.assert_array_equal(run(method).draws("theta"), before)
    np.testing.assert_array_equal(first.draws("theta"), before)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"settings": {"draws": 121}},
        {"data": {**SCHOOLS_DATA, "y": SCHOOLS_DATA["y"] + 1}},
        {"sampler": bayes.HMC},
    ],
)
def test_the_folder_of_another_run_is_refused_and_left_alone(stored, change):
    post, folder = stored
    before = post.draws("theta").values
    settings, sampler = change.pop("settings", {}), change.pop("sampler", bayes.NUTS)
    with pytest.raises(bayes.FileError, match=r"draws\.zarr is not overwritten.*another run"):
        run(sampler(**{**FIXED, **settings}, store=folder), **change)
    np.testing.assert_array_equal(post.draws("theta"), before)


def test_a_foreign_folder_is_refused_and_left_alone(stored, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(bayes.FileError, match="not a folder of draws"):
        run(bayes.NUTS(**FIXED, store=tmp_path))
    assert [f.name for f in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(bayes.FileError, match="is a file"):
        run(bayes.NUTS(**FIXED, store=tmp_path / "notes.txt"))
    stored[0].save(tmp_path / "post.zarr")
    with pytest.raises(bayes.FileError, match="not a folder of draws"):
        run(bayes.NUTS(**FIXED, store=tmp_path / "post.zarr"))
    bayes.load(tmp_path / "post.zarr")


def test_a_posterior_is_not_saved_over_its_own_draws(stored):
    post, folder = stored
    with pytest.raises(bayes.FileError, match="not overwritten"):
        post.save(folder)


# ------------------------------------------------------------------------------- damage


VALUES = np.random.default_rng(3).normal(size=(2, 60, 5, 700))


def filled(folder, blocks=(0, 25, 60), values=VALUES):
    store = DrawStore(folder, digest("run"), digest("round"))
    for start, stop in itertools.pairwise(blocks):
        store.write({"x": values[:, start:stop]}, {"x": ("a", "b")}, start)
    return store.finish(["x"], values.shape[1])["x"]


def test_flipped_bits_raise(tmp_path, rng):
    draws = filled(tmp_path / "d.zarr")
    np.testing.assert_array_equal(draws[...], VALUES)
    files = [f for f in (tmp_path / "d.zarr" / "x").rglob("*") if f.is_file() and "c" in f.parts]
    file = files[0]
    content = file.read_bytes()
    for place in [0, len(content) - 1, *rng.integers(len(content), size=20)]:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(bytes(damaged))
        with pytest.raises(bayes.FileError, match=r"draws of 'x' in .* are damaged"):
            draws[...]
    file.unlink()
    with pytest.raises(bayes.FileError, match="damaged"):
        draws[...]
    file.write_bytes(content)
    np.testing.assert_array_equal(draws[...], VALUES)


def test_flipped_bits_show_in_a_posterior(tmp_path):
    post = run(bayes.NUTS(**FIXED, store=tmp_path / "d.zarr"))
    file = next(f for f in (tmp_path / "d.zarr" / "theta" / "c").rglob("*") if f.is_file())
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(bytes(content))
    with pytest.raises(bayes.FileError, match="damaged"):
        _ = post.draws("theta").values
    assert np.isfinite(post.draws("mu").values).all()


def test_rows_that_are_missing_before_a_block_are_missed(tmp_path):
    store = DrawStore(tmp_path / "d.zarr", digest("run"), digest("round"))
    store.write({"x": VALUES[:, :20]}, {"x": ("a", "b")}, 0)
    with pytest.raises(bayes.FileError, match="20 draws of 'x' where there should be 30"):
        store.write({"x": VALUES[:, 30:]}, {"x": ("a", "b")}, 30)


def test_draws_that_are_not_finite_are_counted(tmp_path):
    def wide(y=None):
        x = numpyro.sample("x", dist.Normal(0, 1))
        numpyro.deterministic("overflow", np.inf * x)
        numpyro.sample("y", dist.Normal(x, 1), obs=y)

    method = bayes.NUTS(**FIXED, store=tmp_path / "d.zarr")
    assert bayes.fit(wide, {"y": 1.0}, method).diagnostics["finite"].value == 240


# ------------------------------------------------------------------------ parts of the whole


@pytest.mark.parametrize("shape", [(), (3,), (700,), (5, 700), (40, 3, 30)])
@pytest.mark.parametrize("dtype", [float, np.int64])
def test_convergence_part_by_part_is_that_of_the_whole(shape, dtype, tmp_path, rng):
    values = (3 * rng.normal(size=(2, 60, *shape))).astype(dtype)
    if shape:
        values[..., 1] = 4  # constant
        values[0, :, ..., 2] = 1  # a chain that is stuck
    lp = rng.normal(size=(2, 60))
    dims = {"x": tuple(f"d{i}" for i in range(len(shape)))}
    store = DrawStore(tmp_path / "d.zarr", digest("run"), digest("round"))
    store.write({"x": values}, dims, 0)
    draws = store.finish(["x"], 60)
    for density, sampled in ((lp, None), (None, ["y"])):
        whole = convergence({"x": values}, density, sampled)
        found = assess(draws, density, sampled)
        assert whole.names == found.names
        assert whole.constant == found.constant
        for field in ("rhat", "bulk", "tail", "spread", "slowest"):
            np.testing.assert_array_equal(getattr(whole, field), getattr(found, field))
        assert separate_groups(whole) == separate_groups(found)


def test_chunks_are_bounded_and_split_along_elements(tmp_path, rng):
    draws = filled(tmp_path / "a.zarr", (0, 50), rng.normal(size=(2, 50, 20, 1000)))
    chunk = np.prod(draws._chunks) * 8
    assert 2**15 < chunk <= 2**21
    assert np.prod(draws._chunks[2:]) <= 1000
    large = filled(tmp_path / "b.zarr", (0, 2), rng.normal(size=(4, 2, 300_000, 1)))
    assert np.prod(large._chunks) * 8 <= 2**21
    assert large._chunks[2] <= 300_000 / 30


def test_the_verdict_needs_a_part_of_the_draws_in_memory(tmp_path, rng):
    values = rng.normal(size=(2, 400, 8, 2000))
    draws = filled(tmp_path / "d.zarr", (0, 200, 400), values)
    size = values.nbytes  # 102 MB
    del values
    tracemalloc.start()
    found = assess({"x": draws}, None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found.rhat) == 16_000
    assert peak < 0.6 * size


MEMORY = """
import resource, warnings, numpyro, numpyro.distributions as dist, bayes
warnings.simplefilter("ignore")

def normal(y=None):
    numpyro.sample("x", dist.Normal(0, 1).expand([20_000]).to_event(1))

method = bayes.NUTS(
    chains=2, warmup=30, draws=500, target_accept=0.8, metric="diagonal", store={store!r}
)
post = bayes.fit(bayes.Model(normal, allow_prior=True), {{}}, method)
print(post.data["posterior"]["x"][..., 7].values.sum())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_a_run_of_many_dimensions_takes_a_block_of_memory(tmp_path: pathlib.Path) -> None:
    """160 MB of draws, of which the assessment of a run in memory makes copies."""
    peaks, sums = [], []
    # With an arena for each thread the C library keeps up to 300 MB more or less from run to run.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    for store in (None, str(tmp_path / "d.zarr")):
        code = MEMORY.format(store=store)
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
        total, peak = done.stdout.split()
        sums.append(total)
        peaks.append(int(peak) / 1024)
    assert sums[0] == sums[1]
    assert peaks[1] < peaks[0] - 200, peaks
