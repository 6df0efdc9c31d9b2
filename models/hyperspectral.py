"""Indian Pines: a hyperspectral image from a quarter as many measurements as it has values.

A crop of 30 x 30 pixels and 40 spectral bands is seen through separable random projections, 15 of
the rows, 15 of the columns and 40 of the bands, with noise 30 dB below them. Its cosine
coefficients have variances that are a product along rows, columns and bands (Kronecker sparse
Bayesian learning): low frequencies matter, most others hardly. The variances are squares of
half-normal scales, that is Gamma(1/2, 1/2).

Source: He and Joseph (2024), Bayesian algorithms for Kronecker-structured sparse vector recovery
with application to IRS-MIMO channel estimation, IEEE Transactions on Signal Processing, for the
prior; Duarte and Baraniuk (2012), Kronecker compressive sensing, IEEE Transactions on Image
Processing 21, for separable sensing of such images. Data: Baumgardner, Biehl and Landgrebe (2015),
220 Band AVIRIS Hyperspectral Image Data Set: June 12, 1992 Indian Pine Test Site 3, Purdue
University Research Repository, doi:10.4231/R7RX991C (CC BY 3.0), rows 90 to 119, columns 10 to 39
and every fifth of the 200 bands outside water absorption. The image is real, its measurements are
simulated from it.

What to expect: the image comes back with a relative error of 12 %, where the best ridge regression
leaves 88 % and the true mean spectrum in every pixel 26 %; 90 % intervals hold 94 % of its values.
Measured at 15 x 15 x 9 instead, the error is 63 % and 90 % intervals hold 35 %, with a verdict that
passes: an image is no draw from this prior, and bands are what can least be spared. Taking the
variances for known moves no mean of a coefficient that is two standard deviations from zero by more
than 0.3 of them, and makes standard deviations 4 % too small (median).
"""

import pathlib

import numpy as np
import numpyro
import numpyro.distributions as dist

from bayes.distributions import KroneckerLinear, KroneckerNormal

METHOD = "kronecker_sbl"

_MEASURED = (15, 15, 40)
_SNR = 30.0


def model(factors, y=None):
    """Sparse coefficients of an image, measured through a Kronecker product.

    Parameters
    ----------
    factors : sequence of array, shape (m_i, n_i)
        Measurements of the basis functions along rows, columns and bands.
    y : array, shape (m_1, m_2, m_3), optional
        Measurements, in standard deviations of the image.
    """
    variances = [
        numpyro.sample(f"gamma_{i}", dist.Gamma(0.5, 0.5).expand([h.shape[1]]).to_event(1))
        for i, h in enumerate(factors)
    ]
    noise = numpyro.sample("noise", dist.HalfNormal(1.0))
    x = numpyro.sample("x", KroneckerNormal(variances))
    numpyro.sample("y", KroneckerLinear(factors, x, noise), obs=y)


def cube():
    """The image that was measured: rows x columns x bands, of mean zero and sd one."""
    values = _table().to_numpy(float).reshape(30, 30, -1)
    return (values - values.mean()) / values.std()


def wavelengths():
    """Of the bands, in nanometres."""
    return _table().columns.to_numpy(float)


def bases():
    """Cosine functions along rows, columns and bands: matrices (n_i, n_i), a function a column."""
    return [cosines(n) for n in cube().shape]


def cosines(n):
    """The orthonormal cosine functions (DCT-II) of n points, one a column."""
    from scipy.fft import idct

    return idct(np.eye(n), axis=0, norm="ortho")


def data(measured=_MEASURED, snr=_SNR, seed=0):
    """Factors and 9000 measurements of the image, with noise `snr` decibels below them."""
    return measure(cube(), measured, snr, np.random.default_rng(seed))


def measure(image, measured, snr, generator):
    """Simulated measurements of an image by normal random projections along each axis.

    Parameters
    ----------
    image : array, shape (n_1, ..., n_I)
        The image.
    measured : sequence of int
        Projections along each axis.
    snr : float
        Power of the projections over that of their noise, in decibels.
    generator : numpy.random.Generator
        Draws projections, then noise.

    Returns
    -------
    dict
        The model's `factors`, projections of cosine functions, and `y`.
    """
    pairs = list(zip(measured, image.shape, strict=True))
    sensing = [generator.standard_normal((m, n)) / np.sqrt(m) for m, n in pairs]
    y = image
    for axis, matrix in enumerate(sensing):
        y = np.moveaxis(np.tensordot(matrix, y, (1, axis)), 0, axis)
    noise = np.sqrt(np.mean(y**2) / 10 ** (snr / 10))
    factors = [matrix @ cosines(n) for matrix, (_, n) in zip(sensing, pairs, strict=True)]
    return {"factors": factors, "y": y + noise * generator.standard_normal(y.shape)}


def reconstruct(post):
    """Means and standard deviations of all pixels in all bands, as `post.linear` gives them."""
    return post.linear(*bases())


def _table():
    import pandas

    path = pathlib.Path(__file__).with_name("data") / "hyperspectral.csv"
    return pandas.read_csv(path, index_col=["row", "column"])


DIMS = {
    "gamma_0": ["row_frequency"],
    "gamma_1": ["column_frequency"],
    "gamma_2": ["band_frequency"],
    "x": ["row_frequency", "column_frequency", "band_frequency"],
}

REFERENCE = {
    "noise": (0.06909997, 0.0009763177),
    "x[0,0,0]": (-0.3255662, 2.450535),
    "x[0,0,1]": (158.0614, 2.233871),
    "x[0,0,2]": (8.069535, 1.203402),
    "x[0,0,3]": (-40.29798, 1.795331),
    "x[0,0,4]": (-35.20938, 1.188511),
    "x[0,0,5]": (-12.62569, 0.8857432),
    "x[0,0,6]": (8.647397, 0.9818708),
    "x[1,0,0]": (0.3818406, 1.212787),
    "x[0,1,0]": (-11.70494, 2.3542),
    "x[1,0,1]": (-0.441501, 1.093277),
    "x[0,1,1]": (-3.897492, 2.194939),
    "x[2,0,0]": (-6.615472, 1.547635),
    "x[1,1,0]": (-6.244836, 0.8716356),
    "x[0,2,1]": (-0.1368983, 2.01861),
    "x[2,1,3]": (5.897851, 0.748168),
    "x[29,29,39]": (5.226995e-06, 0.00355476),
    "x[15,10,20]": (0.0031244, 0.03935191),
}
REFERENCE_SOURCE = (
    "variances sampled by NUTS from their marginal posterior, 8 runs of 4 chains x 600"
)
