"""Structure that special solvers recognise, written as NumPyro distributions."""

from bayes.distributions.complex_kronecker import ComplexKroneckerLinear, ComplexKroneckerNormal
from bayes.distributions.kronecker import KroneckerLinear, KroneckerNormal
from bayes.distributions.pairs import as_pairs, from_pairs

__all__ = [
    "ComplexKroneckerLinear",
    "ComplexKroneckerNormal",
    "KroneckerLinear",
    "KroneckerNormal",
    "as_pairs",
    "from_pairs",
]
