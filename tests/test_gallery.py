"""Every model of the gallery, fitted to its real data and held against its reference."""

import pathlib
import re

import arviz_stats
import numpy as np
import pytest

import bayes
from bayes.gallery import gallery_names

ROOT = pathlib.Path(__file__).parent.parent

# Two-sided tail of a normal beyond 4.5 is 6.8e-6; the gallery's references have 61 elements, so a
# false alarm is expected in fewer than one of 2000 runs with other seeds.
THRESHOLD = 4.5

METHOD = bayes.NUTS(chains=4, warmup=500, draws=500)

# Draws behind a reference, where its own Monte Carlo error counts.
REFERENCE_DRAWS = 10_000


def readme_rows():
    text = (ROOT / "models" / "README.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| (\d+) \| (\d+) \|", text, re.MULTILINE)
    return {name: (int(rows), int(parameters)) for name, rows, parameters in rows}


def element(post, name):
    """Draws of an element such as ``theta[3]`` or ``transition[0,2]``."""
    site, _, index = name.partition("[")
    draws = post.draws(site).values
    place = tuple(int(i) for i in index.rstrip("]").split(",")) if index else ()
    return draws[(slice(None), slice(None), *place)]


def deviations(post, reference, draws):
    """How far each mean is from its reference, in combined standard errors."""
    found = {}
    for name, (mean, sd) in reference.items():
        values = element(post, name)
        mcse = float(arviz_stats.mcse(values, method="mean", chain_axis=0, draw_axis=1))
        found[name] = (values.mean() - mean) / np.hypot(mcse, sd / np.sqrt(draws))
    return found


@pytest.mark.filterwarnings("ignore::bayes.ConvergenceWarning")
@pytest.mark.parametrize("name", gallery_names())
def test_posterior_is_the_reference(name):
    entry = bayes.gallery(name)
    post = bayes.fit(entry.model, entry.data(), METHOD, seed=1)
    assert post.diagnostics["rhat"].value < 1.03, str(post.diagnostics)
    assert post.diagnostics["divergences"].value <= 10, str(post.diagnostics)
    found = deviations(post, entry.reference, REFERENCE_DRAWS)
    wrong = {n: round(float(z), 1) for n, z in found.items() if not abs(z) < THRESHOLD}
    assert not wrong, f"{wrong} of {entry.reference_source}"


@pytest.mark.slow
@pytest.mark.parametrize("name", gallery_names())
def test_long_run_is_the_reference_and_passes_its_checks(name):
    entry = bayes.gallery(name)
    post = bayes.fit(entry.model, entry.data(), bayes.NUTS(warmup=1000, draws=5000), seed=2)
    assert post.diagnostics.ok, str(post.diagnostics)
    found = deviations(post, entry.reference, REFERENCE_DRAWS)
    wrong = {n: round(float(z), 1) for n, z in found.items() if not abs(z) < THRESHOLD}
    assert not wrong, f"{wrong} of {entry.reference_source}"


def test_there_are_as_many_models_as_the_readme_lists():
    assert sorted(readme_rows()) == gallery_names()
    assert len(gallery_names()) >= 8


@pytest.mark.parametrize("name", gallery_names())
def test_data_are_what_the_readme_says(name):
    entry = bayes.gallery(name)
    rows, parameters = readme_rows()[name]
    data = entry.data()
    lengths = {len(v) for v in dict(data).values() if np.ndim(v)}
    assert lengths == {rows}
    problem = entry.model.bind(data)
    latent = [s for s in problem.sites.values() if s.kind == "latent"]
    assert sum(int(np.prod(s.shape)) for s in latent) == parameters
    for label in entry.reference:
        site, _, index = label.partition("[")
        place = tuple(int(i) for i in index.rstrip("]").split(",")) if index else ()
        shape = problem.sites[site].shape
        assert len(place) == len(shape)
        assert all(i < n for i, n in zip(place, shape, strict=True))


@pytest.mark.parametrize("name", gallery_names())
def test_entry_says_where_it_is_from(name):
    entry = bayes.gallery(name)
    assert "Source:" in entry.description
    assert "Data:" in entry.description
    assert entry.reference_source
    assert callable(entry.program)
    assert repr(entry).startswith(f"<{name}: ")
    assert (ROOT / "models" / "data" / f"{name}.csv").exists()
    for label, (mean, sd) in entry.reference.items():
        assert np.isfinite(mean), label
        assert sd > 0, label


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(bayes.SettingsError, match=r"no gallery model 'eight_school'.*did you mean"):
        bayes.gallery("eight_school")


def test_importing_the_module_does_not_hide_the_function():
    import bayes.fit
    import bayes.gallery

    assert callable(bayes.fit)
    assert callable(bayes.gallery)


def test_second_call_gives_the_same_program():
    assert bayes.gallery("radon").program is bayes.gallery("radon").program
