"""Every model of the gallery, fitted to its real data and held against its reference."""

import pathlib
import re

import arviz_stats
import numpy as np
import pytest

import bayes
from bayes.gallery import gallery_names

ROOT = pathlib.Path(__file__).parent.parent

# Two-sided tail of a normal beyond 4.5 is 6.8e-6; references of sampled models have 63 elements,
# so a false alarm is expected in one of 2300 runs with other seeds.
THRESHOLD = 4.5

METHOD = bayes.NUTS(chains=4, warmup=500, draws=500)

# What is fitted by a method of its own, which takes some parameters as known.
STRUCTURED = [name for name in gallery_names() if bayes.gallery(name).method != "nuts"]
SAMPLED = [name for name in gallery_names() if name not in STRUCTURED]

# Draws behind a reference, where its own Monte Carlo error counts.
REFERENCE_DRAWS = 10_000


def readme_rows():
    text = (ROOT / "models" / "README.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| (\d+) \| (\d+) \|", text, re.MULTILINE)
    return {name: (int(rows), int(parameters)) for name, rows, parameters in rows}


def site_and_place(label):
    """Of ``transition[0,2]`` the site and (0, 2)."""
    site, _, index = label.partition("[")
    return site, tuple(int(i) for i in index.rstrip("]").split(",")) if index else ()


def element(post, label):
    """Draws of an element such as ``theta[3]`` or ``transition[0,2]``."""
    site, place = site_and_place(label)
    return post.draws(site).values[(slice(None), slice(None), *place)]


def deviations(post, reference, draws):
    """How far each mean is from its reference, in combined standard errors."""
    found = {}
    for name, (mean, sd) in reference.items():
        values = element(post, name)
        mcse = float(arviz_stats.mcse(values, method="mean", chain_axis=0, draw_axis=1))
        found[name] = (values.mean() - mean) / np.hypot(mcse, sd / np.sqrt(draws))
    return found


@pytest.mark.filterwarnings("ignore::bayes.ConvergenceWarning")
@pytest.mark.parametrize("name", SAMPLED)
def test_posterior_is_the_reference(name):
    entry = bayes.gallery(name)
    post = bayes.fit(entry.model, entry.data(), METHOD, seed=1)
    assert post.diagnostics["rhat"].value < 1.03, str(post.diagnostics)
    assert post.diagnostics["divergences"].value <= 10, str(post.diagnostics)
    found = deviations(post, entry.reference, REFERENCE_DRAWS)
    wrong = {n: round(float(z), 1) for n, z in found.items() if not abs(z) < THRESHOLD}
    assert not wrong, f"{wrong} of {entry.reference_source}"


@pytest.mark.parametrize("name", STRUCTURED)
def test_structured_posterior_is_near_the_reference(name):
    """Means within 0.3 sd, standard deviations within 30 %: what an approximation is called off by.

    What the method takes as known has no spread, and is the mode: it may be one sd from the mean.
    The fit is deterministic but for rounding.
    """
    entry = bayes.gallery(name)
    post = bayes.fit(entry.model, entry.data(), entry.method, seed=1)
    assert post.diagnostics.ok, str(post.diagnostics)
    ratios, source = [], entry.reference_source
    for label, (mean, sd) in entry.reference.items():
        site, place = site_and_place(label)
        found = {k: float(v.values[place]) for k, v in post.moments(site).items()}
        off, ratio = (found["mean"] - mean) / sd, found["sd"] / sd
        assert abs(off) < (0.3 if ratio else 1.0), f"{label} is off by {off:.2f} sd of {source}"
        ratios.append(ratio)
    spread = [r for r in ratios if r]
    assert len(spread) > len(ratios) / 2
    assert all(abs(r - 1) < 0.3 for r in spread), f"{spread} of the standard deviations of {source}"


def test_hyperspectral_image_comes_back():
    """Against the image itself, which the fit has not seen: error and coverage of all 36000 values.

    Deterministic: 0.121 and 0.945, where ridge regression at its best has an error of 0.88.
    """
    entry = bayes.gallery("hyperspectral")
    truth = entry.module.cube()
    post = bayes.fit(entry.model, entry.data(), entry.method, seed=1)
    pixels = entry.module.reconstruct(post)
    assert pixels.attrs["exact"]
    away = pixels["mean"].values - truth
    assert np.linalg.norm(away) < 0.13 * np.linalg.norm(truth)
    inside = np.mean(np.abs(away) < 1.645 * pixels["sd"].values)
    assert 0.92 < inside < 0.97


def test_hyperspectral_bases_are_orthonormal_and_the_image_is_standardised():
    module = bayes.gallery("hyperspectral").module
    image = module.cube()
    assert image.shape == (30, 30, len(module.wavelengths()))
    np.testing.assert_allclose([image.mean(), image.std()], [0, 1], atol=1e-12)
    for n, basis in zip(image.shape, module.bases(), strict=True):
        np.testing.assert_allclose(basis.T @ basis, np.eye(n), atol=1e-12)
        np.testing.assert_allclose(basis[:, 0], n**-0.5)
    assert all(np.diff(module.wavelengths()) > 0)


def test_hyperspectral_measurements_are_of_the_image():
    """Without noise they are the Kronecker product of factors with the image's coefficients."""
    module = bayes.gallery("hyperspectral").module
    image, noiseless = module.cube(), module.data(snr=np.inf)
    x = np.einsum("abc,ai,bj,ck->ijk", image, *module.bases(), optimize=True)
    y = np.einsum("ijk,ai,bj,ck->abc", x, *noiseless["factors"], optimize=True)
    np.testing.assert_allclose(noiseless["y"], y, atol=1e-10)
    # 9000 draws of noise 30 dB below: its mean square has a relative standard error of 1.5 %, and
    # a false alarm beyond 5 of them has a chance of 6e-7.
    noise = module.data()["y"] - noiseless["y"]
    assert abs(1000 * np.mean(noise**2) / np.mean(noiseless["y"] ** 2) - 1) < 0.075


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::bayes.ConvergenceWarning")
def test_sampled_variances_give_the_reference_of_the_hyperspectral_image():
    """Coefficients are drawn given each draw of the variances, and nearly independent."""
    entry = bayes.gallery("hyperspectral")
    method = bayes.KroneckerSBL(hyper=bayes.NUTS(draws=500))
    post = bayes.fit(entry.model, entry.data(), method, seed=2)
    found = deviations(post, entry.reference, REFERENCE_DRAWS)
    wrong = {n: round(float(z), 1) for n, z in found.items() if not abs(z) < THRESHOLD}
    assert not wrong, f"{wrong} of {entry.reference_source}"


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLED)
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
    problem = entry.model.bind(data)
    if name in STRUCTURED:  # observations along several axes, and covariates of each
        (observed,) = (s for s in problem.sites.values() if s.kind == "observed")
        lengths = {int(np.prod(observed.shape))}
    else:
        lengths = {len(v) for v in dict(data).values() if np.ndim(v)}
    assert lengths == {rows}
    latent = [s for s in problem.sites.values() if s.kind == "latent"]
    assert sum(int(np.prod(s.shape)) for s in latent) == parameters
    for label in entry.reference:
        site, place = site_and_place(label)
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
