# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---
# %% [markdown]
# # A hyperspectral image from 6 % of its values
#
# A hyperspectral camera records a spectrum in every pixel. Reading all of it out is slow, so
# compressed sensing measures fewer numbers, each a random mixture of many pixels and bands, and
# leaves it to a prior to undo the mixing. This tutorial does so for a real image, the Indian Pines
# scene (AVIRIS, June 1992; Baumgardner, Biehl and Landgrebe 2015, doi:10.4231/R7RX991C, CC BY 3.0):
# 145 x 145 pixels and 200 bands, 4.2 million unknowns, 259 200 measurements.
#
# The prior is Kronecker sparse Bayesian learning (He and Joseph 2024). In a cosine basis the
# coefficients x are normal with mean zero and with variances that are a product, one factor along
# rows, one along columns and one along bands:
#
# $$y = (H_1 \otimes H_2 \otimes H_3)\,x + n, \qquad
#   x \sim N(0, \mathrm{diag}(g_1 \otimes g_2 \otimes g_3)).$$
#
# So 490 variances are learned instead of 4.2 million, and no matrix with more rows or columns than
# an axis is long is ever formed.
#
# Run it from the root of the project: `python tutorials/hyperspectral.py` takes half a minute and
# 3 GB. With `BAYES_TUTORIAL=small` it takes the gallery's crop instead, in a few seconds.

# %%
import importlib.util
import os
import pathlib
import time

import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist

import bayes
from bayes.distributions import KroneckerLinear, KroneckerNormal

SMALL = os.environ.get("BAYES_TUTORIAL") == "small"
PICTURES = pathlib.Path("results/tutorials")
PICTURES.mkdir(parents=True, exist_ok=True)

pines = bayes.gallery("hyperspectral").module  # its measurements, bases and crop

# %% [markdown]
# ## The image
#
# The whole image is part of the package tensorly; the crop that comes with bayes has 30 x 30 pixels
# and every fifth band. Values are centred and scaled by one number each for the whole image, so
# that its standard deviation is one.


# %%
def whole_cube():
    """The image as tensorly ships it, rows x columns x bands."""
    found = importlib.util.find_spec("tensorly")
    if found is None or found.origin is None:
        raise SystemExit(
            "The whole image comes with tensorly: pip install tensorly; or set "
            "BAYES_TUTORIAL=small for the crop that comes with bayes."
        )
    folder = pathlib.Path(found.origin).parent / "datasets" / "data"
    values = np.load(folder / "Indian_pines_corrected.npy", allow_pickle=False).astype(float)
    return (values - values.mean()) / values.std()


cube = pines.cube() if SMALL else whole_cube()
bases = [pines.cosines(n) for n in cube.shape]
print(f"image: {' x '.join(map(str, cube.shape))}, {cube.size} unknowns")

# %% [markdown]
# ## The program
#
# An ordinary NumPyro program. Each variance is the square of a half-normal scale, Gamma(1/2, 1/2):
# a density that is largest at zero, so that what the measurements do not ask for is switched off.
# Because `KroneckerNormal` and `KroneckerLinear` are honest distributions, NUTS could run it, too;
# `method="kronecker_sbl"` recognises the structure instead.


# %%
def sparse(factors, y=None):
    """Coefficients whose variances are a product along the axes, measured along each axis."""
    variances = [
        numpyro.sample(f"gamma_{i}", dist.Gamma(0.5, 0.5).expand([h.shape[1]]).to_event(1))
        for i, h in enumerate(factors)
    ]
    noise = numpyro.sample("noise", dist.HalfNormal(1.0))
    x = numpyro.sample("x", KroneckerNormal(variances))
    numpyro.sample("y", KroneckerLinear(factors, x, noise), obs=y)


# %% [markdown]
# ## The measurements
#
# Along each axis the sensor takes fewer random mixtures than there are values, with noise 30 dB
# below them. Bands are what an image can least spare, so all of the saving is in space: 36 x 36
# spatial mixtures at 200 spectral ones. Some more mixtures along each axis are kept back: they will
# tell whether the intervals can be believed when nobody knows the image.

# %%
BACK = 8 if SMALL else 20


def measured(image, kept, seed=0):
    """Measurements to fit; and by axis those with other mixtures along it."""
    more = pines.measure(image, [k + BACK for k in kept], 30.0, np.random.default_rng(seed))

    def part(axis=None):
        inside = [slice(k, None) if i == axis else slice(0, k) for i, k in enumerate(kept)]
        factors = [h[rows] for h, rows in zip(more["factors"], inside, strict=True)]
        return {"factors": factors, "y": more["y"][tuple(inside)]}

    return part(), [part(axis) for axis in range(image.ndim)]


kept = (15, 15, 40) if SMALL else (36, 36, 200)
data, back = measured(cube, kept)
print(f"measurements: {data['y'].size}, {data['y'].size / cube.size:.1%} of the unknowns")

# %% [markdown]
# ## The fit
#
# The variances are those of greatest marginal density, found by monotone updates; given them the
# posterior of the coefficients is normal, and known in closed form. Draws of 4.2 million numbers
# take memory, and means and standard deviations do not need them: 20 are enough here.

# %%
method = bayes.KroneckerSBL(draws=20)
started = time.perf_counter()
post = bayes.fit(sparse, data, method=method, seed=0)
print(f"fit: {time.perf_counter() - started:.1f} s, {post.method.info['sweeps']} sweeps")
print(post.diagnostics)

# %% [markdown]
# The verdict says `type_ii`: intervals take the variances and the noise for known, at their most
# probable values. With hundreds of measurements for each variance that leaves out little. Where the
# number of variances allows (below 100) the line also says by how much intervals of relevant
# coefficients would be wider with that uncertainty, and `KroneckerSBL(hyper="nuts")` samples the
# variances instead.
#
# ## The image back
#
# `post.linear` maps coefficients to pixels, with exact standard deviations: these need no draws.
# Ridge regression is the same model with all variances equal; its penalty is chosen here by looking
# at the true image, which favours it. The true mean spectrum in every pixel is a picture without
# any space in it: what is below its error is spatial detail.


# %%
def relative_error(picture):
    """Distance from the true image over the size of the true image."""
    return float(np.linalg.norm(picture - cube) / np.linalg.norm(cube))


def psnr(picture):
    """Peak signal-to-noise ratio in dB, the peak being the range of the true image."""
    return float(10 * np.log10(np.ptp(cube) ** 2 / np.mean((picture - cube) ** 2)))


def coverage(mean, sd, truth):
    """Share of truths in the central 90 % intervals."""
    return float(np.mean(np.abs(truth - mean) < 1.645 * sd))


def along(tensor, matrices):
    """A matrix along each axis of a tensor."""
    for axis, matrix in enumerate(matrices):
        tensor = np.moveaxis(np.tensordot(matrix, tensor, (1, axis)), 0, axis)
    return tensor


def ridge(factors, y):
    """The best ridge regression for the true image, of several penalties."""
    parts = [np.linalg.svd(h, full_matrices=False) for h in factors]
    turned = along(y, [u.T for u, _, _ in parts])
    s = np.einsum("i,j,k->ijk", *(s for _, s, _ in parts))
    back = [b @ vt.T for b, (_, _, vt) in zip(bases, parts, strict=True)]
    pictures = (along(turned * s / (s**2 + 10.0**p), back) for p in (-4, -3, -2, -1, 0))
    return min(pictures, key=relative_error)


pixels = post.linear(*bases)
mean, sd = pixels["mean"].values, pixels["sd"].values
flat = np.broadcast_to(cube.mean(axis=(0, 1)), cube.shape)
for name, picture in [
    ("Kronecker SBL", mean),
    ("ridge", ridge(data["factors"], data["y"])),
    ("mean spectrum", flat),
]:
    print(f"{name}: relative error {relative_error(picture):.3f}, PSNR {psnr(picture):.1f} dB")
print(f"90 % intervals hold {coverage(mean, sd, cube):.1%} of all values")

# %%
band = cube.shape[2] // 5
error = mean[:, :, band] - cube[:, :, band]
low, high = np.percentile(cube[:, :, band], [1, 99])
panels = [
    ("truth", cube[:, :, band], "gray", low, high),
    ("posterior mean", mean[:, :, band], "gray", low, high),
    ("error", error, "RdBu_r", -(high - low) / 2, (high - low) / 2),
    ("posterior sd", sd[:, :, band], "viridis", 0, None),
]
figure, axes = plt.subplots(1, 4, figsize=(15, 3.9), layout="constrained")
for ax, (title, picture, colours, least, most) in zip(axes, panels, strict=True):
    shown = ax.imshow(picture, cmap=colours, vmin=least, vmax=most)
    ax.set(title=title, xticks=[], yticks=[])
    figure.colorbar(shown, ax=ax, shrink=0.8)
figure.suptitle(f"Band {band + 1} of {cube.shape[2]}, in standard deviations of the image")
figure.savefig(PICTURES / "hyperspectral_bands.png", dpi=110)

# %% [markdown]
# Of space the coarse pattern comes back: 36 mixtures of 145 rows do not hold the boundaries of
# fields, and the posterior says so by its standard deviation. Along bands nothing was saved, and
# the shape of spectra comes back well; their level in a pixel is as uncertain as the space is.

# %%
rows, columns = cube.shape[:2]
places = [(rows // 4, columns // 4), (rows // 2, columns // 2), (3 * rows // 4, columns // 3)]
numbers = np.arange(1, cube.shape[2] + 1)
figure, axes = plt.subplots(1, 3, figsize=(15, 3.8), layout="constrained", sharey=True)
for ax, (i, j) in zip(axes, places, strict=True):
    ax.fill_between(
        numbers,
        mean[i, j] - 1.645 * sd[i, j],
        mean[i, j] + 1.645 * sd[i, j],
        alpha=0.35,
        label="90 % interval",
    )
    ax.plot(numbers, mean[i, j], lw=1, label="posterior mean")
    ax.plot(numbers, cube[i, j], "k.", ms=3, label="truth")
    ax.set(title=f"pixel ({i}, {j})", xlabel="band")
axes[0].set_ylabel("value, in sd of the image")
axes[0].legend(frameon=False)
figure.savefig(PICTURES / "hyperspectral_spectra.png", dpi=110)

# %% [markdown]
# ## What was learned
#
# The relevances fall with frequency by two to three orders of magnitude, which nobody had to
# tune. Their scale is shared out between the axes; what counts is their product. The objective
# never falls: it is the log evidence plus the log prior of the variances. (The first sweeps, in
# which climbs from several starts are compared without their priors, are not shown.)

# %%
known = post.structure
figure, axes = plt.subplots(1, 4, figsize=(15, 3.4), layout="constrained")
for ax, name, relevance in zip(
    axes[:3], ("rows", "columns", "bands"), known.relevances, strict=True
):
    shown = np.where(relevance > 0, relevance / relevance.max(), np.nan)
    ax.semilogy(shown, ".", ms=4)
    ax.set(title=f"relevance along {name}", xlabel="frequency")
axes[0].set_ylabel("variance / largest")
axes[3].plot(known.trace)
axes[3].set(title="log evidence + log prior", xlabel="sweep")
figure.savefig(PICTURES / "hyperspectral_relevance.png", dpi=110)
print(f"log evidence {known.log_evidence:.0f}, noise {known.noise:.4f}")

# %% [markdown]
# ## Can the intervals be believed?
#
# A verdict judges how the posterior of this program was computed. It cannot know whether the
# program is right: an image is no draw from a prior with independent coefficients. Measurements
# that were kept back can tell. `structure.predict` gives their predictive mean and standard
# deviation, and nine out of ten should lie in the 90 % intervals. They are of few independent
# mixtures, so that the shares scatter; far too few is what to look for.


# %%
def held_back(posterior, back):
    """Shares of the measurements kept back that 90 % intervals hold, in words, by axis."""
    known = posterior.structure
    shares = [coverage(*known.predict(*part["factors"]), part["y"]) for part in back]
    names = ("rows", "columns", "bands")
    return ", ".join(f"{s:.0%} of other {name}" for name, s in zip(names, shares, strict=True))


print(f"held back: 90 % intervals hold {held_back(post, back)}")

# %% [markdown]
# The same number of measurements, spent otherwise: half of the rows, half of the columns and a
# quarter of the bands.

# %%
other = (15, 15, 10) if SMALL else (72, 72, 50)
fewer_bands, fewer_back = measured(cube, other)
post_fewer = bayes.fit(sparse, fewer_bands, method=method, seed=0)
again = post_fewer.linear(*bases)
print(
    f"{' x '.join(map(str, other))} instead: relative error "
    f"{relative_error(again['mean'].values):.3f}, 90 % intervals hold "
    f"{coverage(again['mean'].values, again['sd'].values, cube):.1%} of all values"
)
print(f"held back: 90 % intervals hold {held_back(post_fewer, fewer_back)}")

# %% [markdown]
# The error is larger, and the intervals are far too narrow, although the verdict passes: spectra
# jump where water vapour absorbs, which takes cosines of all frequencies, and fewer mixtures than
# bands cannot tell these apart. The measurements kept back along bands give it away, without the
# true image. Keep some back.
