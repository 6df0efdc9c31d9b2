"""Saved posteriors: what comes back, what is refused, and what a crash leaves behind."""

import json
import os
import shutil

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import xarray as xr
from numpyro.infer.reparam import LocScaleReparam

import bayes
from bayes import storage
from bayes.compilation import computing
from bayes.files import checksum, read_manifest, write_manifest
from bayes.surrogates.fitting import fit_mixture
from bayes.surrogates.priors import SitePriors, as_runtime_prior

SHORT = bayes.NUTS(chains=2, warmup=100, draws=50)

pytestmark = pytest.mark.filterwarnings("ignore::bayes.ConvergenceWarning")


def effects(group, x, n_group, y=None):
    """Effects by group."""
    mu = numpyro.sample("mu", dist.Normal(0, 3))
    with numpyro.plate("group", n_group):
        effect = numpyro.sample("effect", dist.Normal(mu, 1.0))
    mean = numpyro.deterministic("mean", effect[group] + x)
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(mean, 0.5), obs=y)


def changed(name="mu", prior=None, factor=1.0):
    """The same program with one thing changed."""

    def effects(group, x, n_group, y=None):
        mu = numpyro.sample(name, prior or dist.Normal(0, 3))
        with numpyro.plate("group", n_group):
            effect = numpyro.sample("effect", dist.Normal(mu, 1.0))
        mean = effect[group] + x
        numpyro.deterministic("mean", factor * mean)
        with numpyro.plate("row", x.shape[0]):
            numpyro.sample("y", dist.Normal(mean, 0.5), obs=y)

    return effects


@pytest.fixture(scope="module")
def frame():
    labels = pd.to_datetime(["2020-01-01", "2020-02-01", "2020-03-01", "2020-03-02"])
    return pd.DataFrame(
        {
            "group": pd.Categorical(["oak", "ash", "elm", "ash"]),
            "x": [0.0, 1.0, 2.0, 3.0],
            "y": [0.3, 1.0, 3.0, 2.0],
        },
        index=labels,
    )


@pytest.fixture(scope="module")
def post(frame):
    groups = ("log_likelihood", "log_prior", "prior", "posterior_predictive")
    return bayes.fit(effects, frame, SHORT, seed=2, coords={"extra": [1, 2]}).extend(*groups)


@pytest.fixture(scope="module")
def saved(post, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "post.zarr"
    post.save(path)
    return path


@pytest.fixture
def copy(saved, tmp_path):
    """A copy of the saved posterior that a test may damage."""
    return shutil.copytree(saved, tmp_path / "copy.zarr")


def reseal(folder, **changes):
    """Change a manifest and give it a valid seal, as another program might."""
    body = (folder / "manifest.json").read_bytes().rstrip(b"\n").rpartition(b"\n")[0]
    manifest = json.loads(body) | changes
    write_manifest(folder, {k: v for k, v in manifest.items() if v is not None})


def assert_same(a, b):
    assert a.groups == b.groups
    for name in a.groups:
        one, two = a[name].to_dataset(), b[name].to_dataset()
        assert one.identical(two), name
        assert list(one.variables) == list(two.variables)
        for variable in one.variables:
            assert one[variable].dtype == two[variable].dtype, (name, variable)


# ------------------------------------------------------------------------- round trip


def test_everything_comes_back(post, saved):
    loaded = bayes.load(saved)
    assert_same(post.data, loaded.data)
    assert loaded.method == post.method
    assert str(loaded.diagnostics) == str(post.diagnostics)
    assert repr(loaded) == repr(post)
    pd.testing.assert_frame_equal(loaded.summary(), post.summary())
    assert loaded.draws("effect")["group"].values.tolist() == ["ash", "elm", "oak"]
    assert loaded.data["observed_data"]["row"].dtype.kind == "M"


def test_with_its_model_it_predicts_as_before(post, saved, frame):
    loaded = bayes.load(saved, model=effects)
    new = frame[["group", "x"]].iloc[:2]
    before, after = (p.predict(new, seed=5) for p in (post, loaded))
    for group in before.children:
        assert before[group].to_dataset().identical(after[group].to_dataset())
    np.testing.assert_array_equal(post.to_unconstrained(), loaded.to_unconstrained())
    with pytest.raises(bayes.DataError, match="not seen: 'yew'"):
        loaded.predict({"group": ["yew"], "x": [1.0]})
    again = loaded.extend("posterior_predictive").data["posterior_predictive"]
    assert again.to_dataset().identical(post.data["posterior_predictive"].to_dataset())


@pytest.mark.parametrize("call", ["predict", "to_unconstrained", "model", "problem", "extend"])
def test_without_its_model_it_says_what_is_missing(saved, call):
    loaded = bayes.load(saved)
    with pytest.raises(bayes.ModelError, match=r"bayes\.load\(path, model=\.\.\.\)"):
        loaded.extend("prior") if call == "extend" else getattr(loaded, call)()


def test_loaded_without_its_model_it_can_be_saved_again(post, saved, tmp_path, frame):
    bayes.load(saved).save(tmp_path / "second.zarr")
    loaded = bayes.load(tmp_path / "second.zarr", model=effects)
    assert_same(post.data, loaded.data)
    loaded.save(tmp_path / "third.zarr")
    assert_same(post.data, bayes.load(tmp_path / "third.zarr", model=effects).data)


def test_what_the_user_adds_to_the_tree_is_kept(saved, tmp_path):
    import xarray as xr

    loaded = bayes.load(saved)
    loaded.data["mine"] = xr.DataTree(xr.Dataset({"a": ("b", ["x", "yy"])}, attrs={"note": "hi"}))
    loaded.save(tmp_path / "more.zarr")
    assert_same(loaded.data, bayes.load(tmp_path / "more.zarr").data)


def test_arguments_of_every_kind_come_back(tmp_path):
    data = {
        "design": {"left": (np.arange(3.0), np.ones((2, 2))), "right": [np.eye(2), np.ones(1)]},
        "table": {"values": np.array([1.0, 2.0, 3.0])},
        "flag": np.array([True, False, True]),
        "power": 2,
        "name": "a text",
        "y": np.array([0.5, np.nan, 2.0]),
    }

    def program(design, table, flag, power, name, y=None):
        a = numpyro.sample("a", dist.Normal(0, 1))
        mean = a * design["left"][0] ** power + table["values"] + jnp.where(flag, 1.0, 0.0)
        known = np.array([True, False, True])
        with numpyro.plate("row", 3), numpyro.handlers.mask(mask=known):
            numpyro.sample("y", dist.Normal(mean, 1), obs=y)

    post = bayes.fit(program, data, SHORT)
    post.save(tmp_path / "kinds.zarr")
    loaded = bayes.load(tmp_path / "kinds.zarr", model=program)
    assert_same(post.data, loaded.data)
    assert post.predict().identical(loaded.predict())
    assert isinstance(loaded.problem.data.arguments["design"]["left"], tuple)


@pytest.mark.parametrize(
    "index",
    [
        pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1), ("b", 2)]),
        pd.Index(["p", 2, 3.5, "q"], dtype=object),
        pd.date_range("2020", periods=4, tz="Europe/Paris"),
        pd.period_range("2020", periods=4, freq="M"),
        pd.timedelta_range("1D", periods=4),
        pd.Index([10, 20, 30, 40]),
        pd.Index([0.5, 1.5, 2.5, 3.5]),
    ],
    ids=["multi", "objects", "zoned", "period", "timedelta", "integer", "float"],
)
def test_row_labels_of_every_kind_can_be_saved(frame, index, tmp_path):
    post = bayes.fit(effects, frame.set_axis(index), SHORT).extend("log_likelihood")
    post.save(tmp_path / "labels.zarr")
    loaded = bayes.load(tmp_path / "labels.zarr", model=effects)
    assert_same(post.data, loaded.data)
    assert_same(post.predict(seed=1), loaded.predict(seed=1))


def test_intervals_as_levels_can_be_saved(frame, tmp_path):
    cut = frame.assign(group=pd.cut(frame["x"], [-1, 0.5, 1.5, 4]))
    post = bayes.fit(effects, cut, SHORT)
    post.save(tmp_path / "cut.zarr")
    loaded = bayes.load(tmp_path / "cut.zarr", model=effects)
    assert_same(post.data, loaded.data)
    assert post.predict(cut, seed=1).identical(loaded.predict(cut, seed=1))


# ---------------------------------------------------------------------------- damage


def test_every_single_bit_flip_is_found(copy):
    """100 bits, spread over all files by their sizes and once over every kind of file."""
    files = sorted(f for f in copy.rglob("*") if f.is_file())
    sizes = np.array([f.stat().st_size for f in files], float)
    rng = np.random.default_rng(0)
    by_size = rng.choice(len(files), size=50, p=sizes / sizes.sum())
    chosen = [*by_size, *rng.integers(len(files), size=46), *range(-4, 0)]
    manifest = files.index(copy / "manifest.json")
    chosen[-4:] = [manifest] * 4
    for number in chosen:
        file = files[number]
        content = file.read_bytes()
        bit = int(rng.integers(8 * len(content)))
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        with pytest.raises(bayes.FileError):
            bayes.load(copy)
        file.write_bytes(content)
    bayes.load(copy)


def chunk_of(folder, name="mu"):
    return next(f for f in (folder / "groups/posterior" / name / "c").rglob("*") if f.is_file())


def test_deleted_truncated_and_foreign_chunks_are_found(copy):
    chunk = chunk_of(copy)
    content = chunk.read_bytes()
    chunk.write_bytes(content[:-7])
    with pytest.raises(bayes.FileError, match=r"damaged: the checksum of groups/posterior/mu/c"):
        bayes.load(copy)
    chunk.write_bytes(b"")
    with pytest.raises(bayes.FileError, match="checksum"):
        bayes.load(copy)
    chunk.unlink()
    with pytest.raises(bayes.FileError, match=r"damaged: groups/posterior/mu/c.* is missing"):
        bayes.load(copy)
    chunk.write_bytes(content)
    chunk.with_name("1").write_bytes(content)
    with pytest.raises(bayes.FileError, match="a file that is not its own: groups/posterior/mu/c"):
        bayes.load(copy)
    chunk.with_name("1").unlink()
    bayes.load(copy)


def test_zarr_metadata_out_of_order_are_found(copy):
    metadata = copy / "groups/posterior/mu/zarr.json"
    metadata.write_text(metadata.read_text().replace("float64", "float32"))
    with pytest.raises(bayes.FileError, match="checksum"):
        bayes.load(copy)
    # Even where the one who damaged it put the checksums right.
    metadata.write_text("{")
    manifest = read_manifest(copy, "posterior", 1)
    files = manifest["files"] | {"groups/posterior/mu/zarr.json": checksum(b"{")}
    reseal(copy, files=files)
    with pytest.raises(bayes.FileError, match="cannot be read, though its checksums agree"):
        bayes.load(copy)


@pytest.mark.parametrize("key", ["files", "layout", "model", "method", "diagnostics", "arguments"])
def test_manifest_without_an_entry_is_refused(copy, key):
    reseal(copy, **{key: None})
    with pytest.raises(bayes.FileError):
        bayes.load(copy)


def test_newer_schema_is_refused_with_the_way_out(copy):
    reseal(copy, schema=2)
    with pytest.raises(bayes.FileError, match=r"schema 2, newer .* \(1\): update bayes"):
        bayes.load(copy)
    for schema in ("1", None, 0):
        reseal(copy, schema=schema)
        with pytest.raises(bayes.FileError, match="has no schema version"):
            bayes.load(copy)


def test_what_is_no_posterior_is_refused(tmp_path):
    with pytest.raises(bayes.FileError, match="does not exist"):
        bayes.load(tmp_path / "nothing")
    with pytest.raises(bayes.FileError, match=r"is not a posterior of bayes.*no manifest\.json"):
        bayes.load(tmp_path)
    (tmp_path / "file").write_text("{}")
    with pytest.raises(bayes.FileError, match="is not a posterior of bayes"):
        bayes.load(tmp_path / "file")
    (tmp_path / "manifest.json").write_text('{"name": "a web page"}')
    with pytest.raises(bayes.FileError, match="another program's"):
        bayes.load(tmp_path)
    write_manifest(tmp_path, {"kind": "checkpoint", "schema": 1})
    with pytest.raises(bayes.FileError, match="is not a posterior of bayes"):
        bayes.load(tmp_path)
    write_manifest(tmp_path, {"other": "kind"})
    with pytest.raises(bayes.FileError, match="is not a posterior of bayes"):
        bayes.load(tmp_path)


def test_manifest_cannot_lead_out_of_the_folder(copy):
    secret = copy.parent / "secret"
    secret.write_bytes(b"secret")
    manifest = read_manifest(copy, "posterior", 1)
    for name in ("../secret", str(secret)):
        reseal(copy, files=manifest["files"] | {name: checksum(b"secret")})
        with pytest.raises(bayes.FileError, match="secret is missing"):
            bayes.load(copy)
    os.symlink(secret, copy / "link")
    reseal(copy, files=manifest["files"] | {"link": checksum(b"secret")})
    with pytest.raises(bayes.FileError, match="not its own: link"):
        bayes.load(copy)


def test_nothing_is_unpickled(copy):
    """An array of objects in place of the data, with all checksums right."""
    array = np.array([{"a": 1}], dtype=object)
    np.savez(copy / "arguments.npz", leaf0=array)
    manifest = read_manifest(copy, "posterior", 1)
    seal = checksum((copy / "arguments.npz").read_bytes())
    reseal(copy, files=manifest["files"] | {"arguments.npz": seal})
    with pytest.raises(bayes.FileError, match="allow_pickle=False"):
        bayes.load(copy)


# ------------------------------------------------------------------------ other models


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (changed(prior=dist.Normal(0, 3.001)), "log density"),
        (changed("nu"), "'mu'.*'nu'"),
        (changed(prior=dist.StudentT(30, 0, 3)), "'mu' differs.*Normal.*StudentT"),
        (changed(factor=2.0), "site 'mean' has another value"),
        (bayes.Model(effects, reparam="auto"), "reparametrisation differs"),
    ],
)
def test_another_model_is_refused(saved, model, message):
    with pytest.raises(bayes.FileError, match=f"saved with another model.*{message}"):
        bayes.load(saved, model=model)


def test_reparametrisation_of_the_fit_is_found_or_asked_for(frame, tmp_path):
    post = bayes.fit(effects, frame, SHORT, reparam="auto")
    post.save(tmp_path / "auto.zarr")
    loaded = bayes.load(tmp_path / "auto.zarr", model=effects)
    np.testing.assert_array_equal(post.to_unconstrained(), loaded.to_unconstrained())
    half = {"effect": LocScaleReparam(centered=0.5)}
    post = bayes.fit(effects, frame, SHORT, reparam=half)
    post.save(tmp_path / "half.zarr")
    with pytest.raises(bayes.FileError, match=r"give bayes\.Model\(\.\.\., reparam=\.\.\.\)"):
        bayes.load(tmp_path / "half.zarr", model=effects)
    assert bayes.load(tmp_path / "half.zarr", model=bayes.Model(effects, reparam=half)).has_model


def test_prior_of_a_model_without_observations_comes_back(tmp_path):
    def prior(n):
        with numpyro.plate("row", n):
            numpyro.sample("a", dist.Normal(0, 1))

    model = bayes.Model(prior, allow_prior=True)
    bayes.fit(model, {"n": 2}, SHORT).save(tmp_path / "prior.zarr")
    assert bayes.load(tmp_path / "prior.zarr", model=model).draws("a").shape == (2, 50, 2)


# --------------------------------------------------------------------------- overwriting


def test_an_earlier_posterior_is_replaced(post, copy):
    smaller = bayes.load(copy)
    for name in list(smaller.data.children)[4:]:
        del smaller.data[name]
    smaller.save(copy)
    assert list(bayes.load(copy).data.children) == list(smaller.data.children)
    assert os.listdir(copy.parent) == [copy.name]


def test_what_is_no_posterior_is_not_overwritten(post, copy, tmp_path):
    folder = tmp_path / "thesis"
    folder.mkdir()
    post.save(folder)  # empty: nothing is lost
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "manifest.json").write_text('{"name": "a web page"}')
    with pytest.raises(bayes.FileError, match="is not overwritten"):
        post.save(folder)
    (tmp_path / "file").write_text("text")
    with pytest.raises(bayes.FileError, match="is not overwritten"):
        post.save(tmp_path / "file")
    (copy / "notes.txt").write_text("mine")
    with pytest.raises(bayes.FileError, match=r"not its own, notes\.txt"):
        post.save(copy)
    assert (copy / "notes.txt").read_text() == "mine"
    assert (folder / "manifest.json").exists()


@pytest.mark.parametrize("step", ["write_arrays", "write_manifest", "_put_in_place"])
def test_a_crash_in_the_middle_of_a_save_leaves_the_old_one(post, copy, monkeypatch, step):
    before = {f: f.read_bytes() for f in copy.rglob("*") if f.is_file()}

    def crash(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(storage, step, crash)
    with pytest.raises(KeyboardInterrupt):
        post.save(copy)
    assert {f: f.read_bytes() for f in copy.rglob("*") if f.is_file()} == before
    assert os.listdir(copy.parent) == [copy.name]


def test_a_crash_between_the_last_two_steps_leaves_the_old_one(post, copy, monkeypatch):
    replace, calls = os.replace, []

    def crash(source, target):
        calls.append(target)
        if len(calls) == 2 + written:
            raise OSError("disk gone")
        replace(source, target)

    written = 0
    monkeypatch.setattr(storage.os, "replace", crash)
    monkeypatch.setattr(storage, "_write", lambda *args: None)
    with pytest.raises(OSError, match="disk gone"):
        post.save(copy)
    assert bayes.load(copy).draws("mu").size == 100
    assert os.listdir(copy.parent) == [copy.name]


def test_a_save_killed_between_the_last_two_steps_says_where_the_old_one_is(copy):
    aside = copy.with_name(f".{copy.name}.1234.old")
    copy.rename(aside)
    with pytest.raises(bayes.FileError, match=r"cut short.*copy\.zarr\.1234\.old"):
        bayes.load(copy)


def test_saving_through_a_link_replaces_what_it_leads_to(post, copy, tmp_path):
    link = tmp_path / "link.zarr"
    link.symlink_to(copy)
    post.save(link)
    assert link.is_symlink()
    assert_same(bayes.load(copy).data, post.data)


# ------------------------------------------------------------- priors of run time


def line(x, y=None):
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(slope * x, sigma), obs=y)


LINE = {"x": np.array([0.5, 1.0, 2.0]), "y": np.array([0.6, 0.8, 2.3])}


def under(prior):
    """The program and the data under a prior, and their posterior."""
    made = as_runtime_prior(prior, bayes.Model(line).bind(LINE), 2, 0)
    model, data = made.rewritten(bayes.Model(line), LINE)
    return model, bayes.fit(model, data, SHORT, seed=0)


def assert_predicts_alike(loaded, post):
    again, before = (p.predict({"x": np.array([3.0, 4.0])}, seed=1) for p in (loaded, post))
    xr.testing.assert_identical(
        again["posterior_predictive"].to_dataset(), before["posterior_predictive"].to_dataset()
    )


def test_a_mixture_for_a_prior_comes_back_with_the_plain_model(tmp_path):
    """The posterior is the prior of more data; both the program and its copy know its density."""
    rng = np.random.default_rng(0)
    mixture = fit_mixture(rng.normal(size=(500, 2)) * 0.3 + [1.0, -0.5], 2, rng)
    model, post = under(mixture)
    post.save(tmp_path / "post.zarr")
    for given in (line, bayes.Model(line), model):
        loaded = bayes.load(tmp_path / "post.zarr", model=given)
        assert_same(loaded.data, post.data)
        position = np.array([0.3, 0.1])
        with computing():
            densities = [float(p.problem.log_density(position)) for p in (loaded, post)]
        np.testing.assert_allclose(*densities, rtol=1e-12)
    assert_predicts_alike(loaded, post)
    loaded.save(tmp_path / "again.zarr")
    assert_same(bayes.load(tmp_path / "again.zarr", model=line).data, post.data)


@pytest.mark.parametrize("other", ["prior", "sites"])
def test_a_mixture_for_a_prior_does_not_hide_another_program(tmp_path, other):
    def changed(x, y=None):
        slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
        sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
        if other == "sites":
            slope = slope + numpyro.sample("more", dist.Normal(0.0, 1.0))
        with numpyro.plate("row", x.shape[0]):
            numpyro.sample("y", dist.Normal(slope * x, 2.0 * sigma), obs=y)

    rng = np.random.default_rng(0)
    _, post = under(fit_mixture(rng.normal(size=(500, 2)), 2, rng))
    post.save(tmp_path / "post.zarr")
    with pytest.raises(bayes.FileError, match="another model than the one given"):
        bayes.load(tmp_path / "post.zarr", model=changed)


def test_distributions_by_site_come_back_with_the_rewritten_model(tmp_path):
    model, post = under({"slope": dist.Normal(1.0, 0.2)})
    post.save(tmp_path / "post.zarr")
    way = (
        r"with_prior\(\{'slope': dist\.Normal\(\.\.\.\)\}\)\.rewritten\(bayes\.Model\(line\), data"
    )
    with pytest.raises(bayes.FileError, match=way):
        bayes.load(tmp_path / "post.zarr", model=line)
    assert_same(bayes.load(tmp_path / "post.zarr").data, post.data)
    loaded = bayes.load(tmp_path / "post.zarr", model=model)
    assert_same(loaded.data, post.data)
    assert_predicts_alike(loaded, post)
    # The numbers are those of the file, whatever numbers the model was rewritten with.
    other = SitePriors({"slope": dist.Normal(-3.0, 5.0)}).rewritten(bayes.Model(line), LINE)[0]
    assert_predicts_alike(bayes.load(tmp_path / "post.zarr", model=other), post)
    wrong = SitePriors({"slope": dist.StudentT(3.0)}).rewritten(bayes.Model(line), LINE)[0]
    with pytest.raises(bayes.FileError, match="another model than the one given"):
        bayes.load(tmp_path / "post.zarr", model=wrong)
