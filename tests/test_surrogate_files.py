"""Files of trained surrogates: what comes back, what is refused, what a crash leaves behind."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from numpyro.infer.reparam import LocScaleReparam
from safetensors.numpy import save_file

import bayes
from bayes.compilation import computing
from bayes.design import sites_observed
from bayes.precision import single_precision
from bayes.surrogates import tensor_files
from bayes.surrogates.files import load_surrogate, require_replaceable, save_surrogate
from bayes.surrogates.ground import Ground
from bayes.surrogates.network import Network
from bayes.surrogates.simulator import Simulator
from bayes.surrogates.tensor_files import TensorFile, write_tensors
from bayes.surrogates.trained_transformer import Familiar, TrainedTransformer

SMALL = bayes.DistributionTransformer(components=2, width=8, layers=1, heads=2)

pytestmark = pytest.mark.filterwarnings("ignore::bayes.ConvergenceWarning")


def line(x, y=None, prior=None, noise=1.0):
    a = numpyro.sample("a", prior or dist.Normal(0.0, 2.0))
    b = numpyro.sample("b", dist.HalfNormal(1.0))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(a + b * x, noise), obs=y)


def groups(group, n_group, known, y=None):
    """Effects of labelled groups around an unknown mean, and data that do not vary."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("group", n_group):
        effect = numpyro.sample("effect", dist.Normal(mu, 0.5))
    with numpyro.plate("row", group.shape[0]):
        numpyro.sample("y", dist.Normal(effect[group] + known.sum(), 0.5), obs=y)


def sized_by_data(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", y.shape[0]):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


X = np.linspace(-1.0, 1.0, 6)
LINE = {"x": X, "y": 0.5 + X}
GROUPS = {
    "group": pd.Series(["oak", "ash", "elm", "ash"], dtype="category"),
    "known": np.array([0.25, 0.5, 0.125]),
    "y": np.array([0.0, 1.0, 2.0, 1.5]),
}
PROGRAMS = {
    "plain": (line, LINE, {}),
    "groups": (groups, GROUPS, {"reparam": "auto", "coords": {"extra": ["ä", "b"]}}),
    "centred": (groups, GROUPS, {"reparam": {}}),
    "by site": (sized_by_data, {"y": np.array([0.5, 1.0, 2.0])}, {}),
}


def untrained(program, data, **options):
    """A surrogate with a network's first weights: a file does not ask how good they are."""
    with computing():
        simulator = Simulator(bayes.Model(program, **options), data)
        key = jax.random.key(0)
        ground = Ground.of(simulator, key, SMALL.components)
    sizes = SMALL._sizes(ground)
    with single_precision():
        network = Network(key, sizes)
    some = np.random.default_rng(0).normal(size=(40, 8))
    return TrainedTransformer(
        network=network,
        sizes=sizes,
        ground=ground,
        familiar=Familiar.of(some),
        runtime=True,
        training={"steps": 0, "loss": [1.5, 0.1]},
        route="raw",
        draws=50,
    )


@pytest.fixture(scope="module")
def surrogate():
    return untrained(line, LINE)


@pytest.fixture(scope="module")
def saved(surrogate, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "line.safetensors"
    save_surrogate(surrogate, path)
    return path


@pytest.fixture
def copy(saved, tmp_path):
    """A copy of the file that a test may damage."""
    path = tmp_path / "copy.safetensors"
    path.write_bytes(saved.read_bytes())
    return path


def changed(path, change):
    """Write a file again with other content and a seal that agrees with it."""
    file = TensorFile.open(path)
    arrays, card = file.read(), {k: v for k, v in file.card.items() if k != "sha256"}
    change(card, arrays)
    write_tensors(path, arrays, card)


# -------------------------------------------------------------------- round trip


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_loaded_surrogate_is_the_same_to_the_bit(name, tmp_path):
    program, data, options = PROGRAMS[name]
    before = untrained(program, data, **options)
    save_surrogate(before, tmp_path / "one.safetensors")
    after = bayes.load(tmp_path / "one.safetensors", model=program)
    assert isinstance(after, TrainedTransformer)
    assert isinstance(after, bayes.Surrogate)
    assert after.settings() == before.settings()
    assert (after.draws, after.route, after.runtime) == (50, "raw", True)
    assert after.training == before.training
    assert after.sizes == before.sizes
    assert after.familiar.limit == before.familiar.limit
    assert jax.tree.structure(after.network) == jax.tree.structure(before.network)
    old, new = before.ground, after.ground
    assert (new.layout, new.observed) == (old.layout, old.observed)
    assert new.constants.keys() == old.constants.keys()
    assert all(np.array_equal(new.constants[n], v) for n, v in old.constants.items())
    assert sites_observed(new.reference.model) == sites_observed(old.reference.model)
    assert new.reference.model.coords.keys() == old.reference.model.coords.keys()
    assert new.reference.program.coordinates == old.reference.program.coordinates
    words = np.zeros(2, np.uint32)
    with computing():
        one, two = (s.propose(old.reference, words) for s in (before, after))
    assert one.info == two.info
    for first, second in zip(one.mixture, two.mixture, strict=True):
        np.testing.assert_array_equal(first, second)


def test_the_programs_differ_in_what_a_file_has_to_keep():
    grounds = {n: untrained(p, d, **o).ground for n, (p, d, o) in PROGRAMS.items()}
    assert [n for n, g in grounds.items() if sites_observed(g.reference.model)] == ["by site"]
    assert [n for n, g in grounds.items() if g.reference.reparametrised] == ["groups"]
    assert set(grounds["groups"].constants) == {"known"}


def test_posterior_draws_are_the_same_to_the_bit(surrogate, saved):
    loaded = bayes.load(str(saved), model=line)
    first, second = (bayes.fit(line, LINE, method=m, seed=4) for m in (surrogate, loaded))
    for site in ("a", "b"):
        np.testing.assert_array_equal(first.draws(site), second.draws(site))
    assert first.method.settings == second.method.settings


def test_a_model_with_labels_of_its_own_is_taken_as_it_is(saved):
    model = bayes.Model(line, coords={"row": list("abcdef")}, name="mine")
    loaded = load_surrogate(saved, model)
    assert loaded.reference.model.name == "mine"
    assert loaded.reference.model.fn is line
    assert model.reparam is None


def test_saving_again_gives_the_same_file(saved, tmp_path):
    again = tmp_path / "again.safetensors"
    save_surrogate(load_surrogate(saved, line), again)
    assert again.read_bytes() == saved.read_bytes()


def test_its_description_is_json_that_others_can_read(saved):
    from safetensors import safe_open

    with safe_open(saved, "numpy") as file:
        assert list(file.metadata()) == ["bayes"]
        card = json.loads(file.metadata()["bayes"])
        assert "learned.network.marks" in file.keys()  # noqa: SIM118
    assert (card["kind"], card["schema"]) == ("surrogate", 1)
    assert card["surrogate"] == "distribution_transformer"
    assert card["model"]["name"] == "line"
    assert card["learned"]["training"]["loss"] == [1.5, 0.1]
    assert card["versions"]["bayes"] == bayes.__version__


# ----------------------------------------------------------------------- refusals


def test_a_surrogate_needs_its_program(saved):
    with pytest.raises(bayes.SettingsError, match=r"needs the program .*model=\.\.\."):
        bayes.load(saved)


def other_prior(x, y=None):
    line(x, y, prior=dist.Normal(0.0, 2.5))


def other_family(x, y=None):
    line(x, y, prior=dist.Laplace(0.0, 2.0))


def other_noise(x, y=None):
    line(x, y, noise=1.1)


def other_sites(x, y=None):
    line(x, y)
    numpyro.sample("c", dist.Normal(0.0, 1.0))


def other_arguments(z, y=None):
    line(z, y)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (other_prior, "the log density differs"),
        (other_noise, "the log density differs"),
        (other_family, "site 'a' differs"),
        (other_sites, r"sites differ.*\['c'\]"),
        (other_arguments, "unexpected keyword argument 'x'"),
    ],
)
def test_another_program_is_refused(saved, program, message):
    with pytest.raises(bayes.FileError, match=f"another program .*{message}"):
        bayes.load(saved, model=program)


def test_files_that_are_cut_short_are_refused(saved, copy):
    content = saved.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    for length in (0, 4, 8, 9, header // 2, header, header + 1, len(content) - 1):
        copy.write_bytes(content[:length])
        with pytest.raises(bayes.FileError, match=r"copy\.safetensors is (cut short|damaged)"):
            bayes.load(copy, model=line)
    copy.write_bytes(content + b"\0")
    with pytest.raises(bayes.FileError, match="is damaged"):
        bayes.load(copy, model=line)


def test_no_changed_byte_goes_unnoticed(saved, copy):
    """One bit of every tenth byte or so of the header, and of the arrays."""
    content = saved.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    rng = np.random.default_rng(0)
    places = [
        *range(8),
        *rng.choice(np.arange(8, header), 300, replace=False),
        *rng.choice(np.arange(header, len(content)), 100, replace=False),
        len(content) - 1,
    ]
    for place in map(int, places):
        damaged = bytearray(content)
        damaged[place] ^= 1
        copy.write_bytes(damaged)
        with pytest.raises(bayes.FileError, match=r"copy\.safetensors"):
            bayes.load(copy, model=line)


def test_a_header_of_any_length_is_not_read(copy):
    content = bytearray(copy.read_bytes())
    content[:8] = (2**40).to_bytes(8, "little")
    with open(copy, "r+b") as file:
        file.write(content)
        file.truncate(2**41)  # sparse: the file is as large as it says
    with pytest.raises(bayes.FileError, match="cut short, or no safetensors"):
        bayes.load(copy, model=line)


def _set(card, arrays, name, value):
    place, *path = name.split("/")
    target = arrays if place == "arrays" else card
    for step in path[:-1]:
        target = target[step]
    if value is None:
        del target[path[-1]]
    else:
        target[path[-1]] = value


WEIGHT = "arrays/learned.network.marks"
FORGED = {
    "kind": ("card/kind", "posterior", "is not a surrogate of bayes"),
    "newer": ("card/schema", 2, r"schema 2, newer .*update bayes"),
    "no schema": ("card/schema", None, "no schema version"),
    "schema of another type": ("card/schema", True, "no schema version"),
    "unknown": ("card/surrogate", "oracle", "does not know, 'oracle'"),
    "missing array": (WEIGHT, None, "array 'network.marks' is missing"),
    "foreign array": ("arrays/learned.more", np.ones(2), "'more' is no array"),
    "shape": (WEIGHT, np.ones((8, 2), np.float32), r"'network.marks' is float32\[8, 2\], not"),
    "type": (WEIGHT, np.ones((2, 8)), r"'network.marks' is float64\[2, 8\], not"),
    "not finite": (WEIGHT, np.full((2, 8), np.nan, np.float32), "no finite numbers"),
    "text": (WEIGHT, np.array(["weights"]), "no finite numbers"),
    "width": ("card/learned/sizes/width", 16, r"array 'network.* is float32.* not float32"),
    "heads": ("card/learned/sizes/heads", 3, "8 is not a multiple of 3 heads"),
    "layers": ("card/learned/sizes/layers", 10**12, "are not the sizes of"),
    "components": ("card/learned/sizes/components", 3, "components of the network are 3, not 2"),
    "no layers": ("card/learned/sizes/layers", 0, "sizes of no network"),
    "size of another type": ("card/learned/sizes/width", "8", "'8', no whole numbers"),
    "no sizes": ("card/learned/sizes", None, "cannot be read, though"),
    "scale": ("arrays/ground.scale", np.array([1.0, 0.0]), "not those of 2 unknowns"),
    "centre": ("arrays/ground.location", np.zeros(3), "not those of 2 unknowns"),
    "prior": ("arrays/ground.own_prior.means", np.zeros((2, 3)), "its prior has shapes"),
    "layout": ("card/layout/sources", [], "reads other sites than y"),
    "columns": ("card/layout/extra_columns/kinds", ["number"], "columns are read of 0"),
    "constant": ("card/constants", ["k"], "cannot be read, though its checksum agrees: KeyError"),
    "data": ("arrays/data.leaf0", None, "cannot be read, though"),
    "route": ("card/settings/route", "any", "route must be one of ladder, raw"),
    "draws": ("card/settings/draws", 0, "draws"),
    "skeleton": ("card/data", [], "cannot be read, though"),
    "checks": ("card/learned/checks", {"schema": 1}, "these are no global checks"),
}


@pytest.mark.parametrize(("name", "value", "message"), FORGED.values(), ids=FORGED)
def test_content_that_does_not_fit_is_refused_though_it_is_sealed(copy, name, value, message):
    changed(copy, lambda card, arrays: _set(card, arrays, name, value))
    with pytest.raises(bayes.FileError, match=rf"(?s)copy\.safetensors.*{message}"):
        bayes.load(copy, model=line)


def test_what_is_no_surrogate_is_refused(tmp_path):
    with pytest.raises(bayes.FileError, match=r"no\.safetensors does not exist"):
        bayes.load(tmp_path / "no.safetensors", model=line)
    (tmp_path / "text.safetensors").write_text("a text, and long enough for eight bytes")
    with pytest.raises(bayes.FileError, match="no safetensors file"):
        bayes.load(tmp_path / "text.safetensors", model=line)
    save_file({"x": np.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(bayes.FileError, match="of another program"):
        bayes.load(tmp_path / "other.safetensors", model=line)
    save_file({"x": np.ones(2)}, tmp_path / "not.safetensors", {"bayes": "no json"})
    with pytest.raises(bayes.FileError, match="its description is no JSON"):
        bayes.load(tmp_path / "not.safetensors", model=line)
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(bayes.FileError, match="is not a posterior of bayes"):
        bayes.load(tmp_path / "folder.safetensors", model=line)
    with pytest.raises(bayes.FileError, match="is a folder"):
        load_surrogate(tmp_path, line)


def test_a_file_of_another_name_is_known_by_its_content(saved, tmp_path):
    path = tmp_path / "line.surrogate"
    path.write_bytes(saved.read_bytes())
    assert bayes.load(path, model=line).components == 2


# ------------------------------------------------------------------------- saving


def test_it_replaces_its_own_kind_only(surrogate, saved, copy, tmp_path):
    save_surrogate(surrogate, copy)
    assert copy.read_bytes() == saved.read_bytes()
    (tmp_path / "empty").mkdir()
    save_file({"x": np.ones(2)}, tmp_path / "other.safetensors")
    (tmp_path / "text").write_text("mine")
    for name in ("empty", "other.safetensors", "text"):
        for refused in (lambda p: save_surrogate(surrogate, p), require_replaceable):
            with pytest.raises(bayes.FileError, match=f"{name} is not overwritten"):
                refused(tmp_path / name)
    assert (tmp_path / "text").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "copy.safetensors",
        "empty",
        "other.safetensors",
        "text",
    ]


@pytest.mark.parametrize("when", ["save_file", "replace"])
def test_a_save_that_fails_leaves_the_old_file(surrogate, copy, monkeypatch, when):
    before = copy.read_bytes()

    def full(*args, **kwargs):
        raise OSError("no space left on device")

    home = "safetensors.numpy.save_file" if when == "save_file" else "os.replace"
    monkeypatch.setattr(home, full)
    with pytest.raises(OSError, match="no space"):
        save_surrogate(surrogate.replace(draws=70), copy)
    assert copy.read_bytes() == before
    assert [p.name for p in copy.parent.iterdir()] == ["copy.safetensors"]


def test_folders_are_made_links_followed_and_others_may_read(surrogate, tmp_path):
    path = tmp_path / "a" / "b.safetensors"
    save_surrogate(surrogate, path)
    (tmp_path / "link.safetensors").symlink_to(path)
    save_surrogate(surrogate.replace(draws=70), tmp_path / "link.safetensors")
    assert (tmp_path / "link.safetensors").is_symlink()
    assert bayes.load(path, model=line).draws == 70
    plain = tmp_path / "plain"
    plain.write_text("")
    assert os.stat(path).st_mode == os.stat(plain).st_mode


def test_the_method_save_is_the_same(surrogate, saved, tmp_path):
    surrogate.save(tmp_path / "one.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == saved.read_bytes()


def test_what_a_file_cannot_hold_is_refused(surrogate, tmp_path):
    path = tmp_path / "one.safetensors"
    with pytest.raises(bayes.SettingsError, match=r"own prior.*with_prior again"):
        save_surrogate(surrogate.with_prior({"a": dist.Normal(1.0, 1.0)}), path)
    code = untrained(groups, GROUPS, reparam={"effect": LocScaleReparam(0.5)})
    with pytest.raises(bayes.SettingsError, match="the reparametrisation of groups is code"):
        save_surrogate(code, path)
    assert not path.exists()


def test_it_is_saved_under_its_own_prior_and_given_another_when_loaded(surrogate, saved):
    prior = {"a": dist.Normal(1.0, 1.0)}
    loaded = load_surrogate(saved, line).with_prior(prior)
    one, two = (
        bayes.fit(line, LINE, method=m, seed=1) for m in (surrogate.with_prior(prior), loaded)
    )
    np.testing.assert_array_equal(one.draws("a"), two.draws("a"))


# -------------------------------------------------------------------------- arrays


ARRAYS = {
    "text": np.array(["oak", "ä", ""]),
    "empty text": np.array([], "<U1"),
    "blank text": np.array(["", ""]),
    "bytes": np.array([b"ab", b"c"]),
    "times": np.array(["2020-01-01", "NaT"], "M8[ns]"),
    "spans": np.array([[1], [2]], "m8[D]"),
    "complex": np.array(1 + 2j),
    "single complex": np.ones((2, 2), np.complex64),
    "none": np.zeros((0, 3)),
    "one": np.asarray(2.5),
    "turned": np.arange(6.0).reshape(2, 3).T,
    "swapped": np.arange(3, dtype=">i4"),
    **{str(np.dtype(t)): np.array([0, 1], t) for t in "?bBhHiIlLefd"},
}


@pytest.mark.parametrize("mapped", [False, True], ids=["read", "mapped"])
def test_arrays_of_every_type_come_back(tmp_path, monkeypatch, mapped):
    monkeypatch.setattr(tensor_files, "_MAPPED", 1 if mapped else 2**20)
    write_tensors(tmp_path / "all", ARRAYS, {"number": float("nan"), "ä": 1e300})
    file = TensorFile.open(tmp_path / "all")
    assert file.card["ä"] == 1e300
    found = file.read()
    assert found.keys() == ARRAYS.keys()
    for name, before in ARRAYS.items():
        after = found[name]
        assert after.shape == before.shape
        assert after.dtype == before.dtype.newbyteorder("<")
        assert type(after) is np.ndarray
        np.testing.assert_array_equal(after, before)
    assert found["turned"].flags.writeable is not mapped


def test_a_mapped_array_outlives_the_file_that_it_was_read_from(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_files, "_MAPPED", 1)
    path = tmp_path / "one"
    write_tensors(path, {"x": np.arange(1000.0)}, {})
    found = TensorFile.open(path).read()["x"]
    write_tensors(path, {"x": -found}, {})
    np.testing.assert_array_equal(found, np.arange(1000.0))
    assert float(jnp.sum(jnp.asarray(found[:3]))) == 3.0


def test_too_much_for_a_header_is_refused_before_it_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_files, "_LARGEST_HEADER", 200)
    with pytest.raises(bayes.FileError, match="do not fit into its header"):
        write_tensors(tmp_path / "one", {}, {"settings": "x" * 200})
    assert not list(tmp_path.iterdir())
