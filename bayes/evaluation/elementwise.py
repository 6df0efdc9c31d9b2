"""JAX's elementwise primitives in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.special as sp

__all__ = ["ELEMENTWISE"]

Params = dict[str, Any]


def _plain(fn: Callable) -> Callable:
    return lambda p, *inputs: fn(*inputs)


def _divide(p: Params, x: np.ndarray, y: np.ndarray) -> Any:
    if x.dtype.kind not in "iu":
        return np.divide(x, y)
    return np.floor_divide(x - np.fmod(x, y), y)  # towards zero


def _round(p: Params, x: np.ndarray) -> Any:
    if int(p["rounding_method"]) == 1:
        return np.rint(x)
    return np.copysign(np.floor(np.abs(x) + 0.5), x)


def _integer_power(p: Params, x: np.ndarray) -> Any:
    power = np.power(x, abs(p["y"]))
    return power if p["y"] >= 0 else 1 / power


def _polynomial(p: Params, x: np.ndarray, *coefficients: np.ndarray) -> Any:
    total = coefficients[-1]
    for coefficient in coefficients[-2::-1]:
        total = total * x + coefficient
    return np.broadcast_to(total, np.broadcast_shapes(x.shape, total.shape))


def _power(p: Params, x: np.ndarray, y: np.ndarray) -> Any:
    return np.power(x, y.astype(x.dtype))


def _shift_right(p: Params, x: np.ndarray, by: np.ndarray) -> Any:
    unsigned = np.dtype(f"u{x.dtype.itemsize}")
    return np.right_shift(x.astype(unsigned), by.astype(unsigned)).astype(x.dtype)


def _select(p: Params, which: np.ndarray, *cases: np.ndarray) -> Any:
    if which.dtype == bool:
        return np.where(which, cases[1], cases[0])
    return np.choose(which, cases)


def _clamp(p: Params, low: np.ndarray, x: np.ndarray, high: np.ndarray) -> Any:
    return np.minimum(np.maximum(x, low), high)


def _convert(p: Params, x: np.ndarray) -> Any:
    dtype = np.dtype(p["new_dtype"])
    if dtype.kind not in "iu" or x.dtype.kind != "f":
        return x.astype(dtype)
    # A number that the integers do not reach becomes the nearest, and NaN zero.
    limits = np.iinfo(dtype)
    whole = np.where(np.isnan(x) | (x <= limits.min) | (x >= limits.max), 0, x).astype(dtype)
    return np.where(x >= limits.max, limits.max, np.where(x <= limits.min, limits.min, whole))


def _bitcast(p: Params, x: np.ndarray) -> Any:
    dtype = np.dtype(p["new_dtype"])
    if dtype.itemsize != x.dtype.itemsize:
        raise NotImplementedError("bits that are grouped otherwise")
    return np.array(x).view(dtype)


ELEMENTWISE: dict[str, Callable] = {
    **{
        name: _plain(fn)
        for name, fn in {
            "abs": np.abs,
            "acos": np.arccos,
            "acosh": np.arccosh,
            "add": np.add,
            "add_any": np.add,
            "and": np.bitwise_and,
            "asin": np.arcsin,
            "asinh": np.arcsinh,
            "atan": np.arctan,
            "atan2": np.arctan2,
            "atanh": np.arctanh,
            "bessel_i0e": sp.i0e,
            "bessel_i1e": sp.i1e,
            "cbrt": np.cbrt,
            "ceil": np.ceil,
            "complex": lambda x, y: x + 1j * y,
            "conj": np.conj,
            "copy": np.copy,
            "copy_p": np.copy,
            "cos": np.cos,
            "cosh": np.cosh,
            "digamma": sp.digamma,
            "eq": np.equal,
            "erf": sp.erf,
            "erf_inv": sp.erfinv,
            "erfc": sp.erfc,
            "exp": np.exp,
            "exp2": np.exp2,
            "expm1": np.expm1,
            "floor": np.floor,
            "ge": np.greater_equal,
            "gt": np.greater,
            "igamma": sp.gammainc,
            "igammac": sp.gammaincc,
            "imag": np.imag,
            "is_finite": np.isfinite,
            "le": np.less_equal,
            "lgamma": sp.gammaln,
            "log": np.log,
            "log1p": np.log1p,
            "logistic": sp.expit,
            "lt": np.less,
            "max": np.maximum,
            "min": np.minimum,
            "mul": np.multiply,
            "ne": np.not_equal,
            "neg": np.negative,
            "nextafter": np.nextafter,
            "not": np.invert,
            "or": np.bitwise_or,
            "real": np.real,
            "regularized_incomplete_beta": sp.betainc,
            "rem": np.fmod,
            "rsqrt": lambda x: 1 / np.sqrt(x),
            "shift_left": np.left_shift,
            "shift_right_arithmetic": np.right_shift,
            "sign": np.sign,
            "sin": np.sin,
            "sinh": np.sinh,
            "sqrt": np.sqrt,
            "square": np.square,
            "stop_gradient": lambda x: x,
            "sub": np.subtract,
            "tan": np.tan,
            "tanh": np.tanh,
            "xor": np.bitwise_xor,
        }.items()
    },
    "bitcast_convert_type": _bitcast,
    "clamp": _clamp,
    "convert_element_type": _convert,
    "div": _divide,
    "integer_pow": _integer_power,
    "polynomial": _polynomial,
    "pow": _power,
    "round": _round,
    "select_n": _select,
    "shift_right_logical": _shift_right,
}
"""Functions of an equation's parameters and inputs, by the name of its primitive."""
