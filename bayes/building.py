"""From a program and a trace of it to pure functions that are compiled once."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayes.data import Data
from bayes.errors import DataError, ModelError, UnsupportedModelError
from bayes.program import Program, cached_program
from bayes.running import explain

__all__ = ["build_program", "computation_digest", "digest_of", "shared_program"]


def build_program(
    written: Callable,
    fn: Callable,
    data: Data,
    trace: Mapping[str, Any],
    discrete: tuple[str, ...],
    identity: str | None = None,
) -> tuple[Program, list[str]]:
    """The pure functions of a program at data of these shapes.

    Parameters
    ----------
    written : callable
        The program as the user wrote it.
    fn : callable
        The program to compile, reparametrised where asked.
    data : Data
        Its data.
    trace : mapping
        A trace of ``fn``.
    discrete : tuple of str
        Discrete latent sites, to be enumerated.
    identity : str, optional
        What tells the values of the program's sites from those of other programs.

    Returns
    -------
    Program
        The one of an earlier call where it does the same computation.
    list of str
        Notes.

    Raises
    ------
    DataError
        Where the log density is complex.
    """
    latents, nesting = [], 0
    for name, site in trace.items():
        if site["type"] != "sample":
            continue
        nesting = max(nesting, -min([f.dim for f in site["cond_indep_stack"]], default=0))
        if site["is_observed"]:
            continue
        if site["fn"].support.is_discrete:
            if discrete:
                _require_enumerable(name, site)
        else:
            latents.append((name, tuple(np.shape(site["value"])), site["fn"].support))
    depth = nesting if discrete else None
    program = Program(fn, data.statics, latents, depth)
    position = np.zeros(program.size)
    try:
        density: Any = jax.make_jaxpr(program.log_density)(position, data.arrays)
        values = identity or computation_digest(program.constrain, position, data.arrays)
    except Exception:  # it may compute with its data in Python; then they are constants
        return _with_constants(fn, data, latents, depth, discrete)
    _require_real(density.out_avals[0].dtype, data)
    structure = jax.tree.structure(data.arrays)
    return shared_program(program, written, (digest_of(density), values, structure)), []


def shared_program(program: Program, written: Callable, computation: Hashable) -> Program:
    """The program itself, or the one of an earlier call that does the same computation.

    The computation is part of the key: a program that reads a global or an attribute that has
    changed since is another program.
    """
    try:
        hash(written)
    except TypeError:
        return program
    names = tuple(s.name for s in program.latents)
    return cached_program((written, names, computation), lambda: program)


_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def computation_digest(function: Callable, *arguments: Any) -> str:
    """A digest of what a function computes at arguments of these shapes, constants included."""
    return digest_of(jax.make_jaxpr(function)(*arguments))


def digest_of(closed: Any, *more: Any) -> str:
    """A digest of a traced function, its constants included, and of what else tells it apart."""
    digest = hashlib.sha256(_ADDRESS.sub("", str(closed.jaxpr)).encode())
    for constant in closed.consts:
        value = np.asarray(constant)
        digest.update(f"{value.shape}{value.dtype}".encode() + value.tobytes())
    for text in more:
        digest.update(_ADDRESS.sub("", repr(text)).encode())
    return digest.hexdigest()


def _with_constants(
    fn: Callable, data: Data, latents: list, depth: int | None, discrete: tuple[str, ...]
) -> tuple[Program, list[str]]:
    program = Program(fn, data.statics, latents, depth, constants=data.arrays)
    try:
        density = jax.eval_shape(program.log_density, np.zeros(program.size), data.arrays)
    except jax.errors.ConcretizationTypeError as error:
        raise ModelError(
            "the program branches in Python on a latent value, which a compiled log density "
            f"cannot do; use jnp.where or jax.lax.cond instead: {_first_line(error)}"
        ) from error
    except ImportError as error:
        raise UnsupportedModelError(
            f"discrete latent sites ({', '.join(discrete)}) are enumerated with funsor, "
            "which is not installed: pip install 'bayes[enumeration]'"
        ) from error
    except Exception as error:
        if discrete:
            raise UnsupportedModelError(
                f"discrete latent sites ({', '.join(discrete)}) cannot be enumerated: "
                f"{_first_line(error)}; marginalise them by hand or with a mixture"
            ) from error
        raise explain(error, data) from error
    _require_real(density.dtype, data)
    return program, ["the program computes with its data in Python: they are constants"]


def _require_real(dtype: Any, data: Data) -> None:
    if not jnp.issubdtype(dtype, jnp.floating):
        complex_names = [n for n, v in data.arrays.items() if np.iscomplexobj(v)]
        raise DataError(
            f"the log density is {dtype}, not real"
            + (f": {', '.join(complex_names)} is complex" if complex_names else "")
        )


def _require_enumerable(name: str, site: Mapping[str, Any]) -> None:
    if not site["fn"].has_enumerate_support:
        raise UnsupportedModelError(
            f"discrete latent site '{name}' ({type(site['fn']).__name__}) has infinitely many "
            "values and cannot be enumerated; marginalise it by hand, or draw it with a kernel of "
            "NumPyro's: method=bayes.NumPyroKernel(...)"
        )
    if site["infer"].get("enumerate") not in (None, "parallel"):
        raise UnsupportedModelError(
            f"discrete latent site '{name}' asks for {site['infer']['enumerate']!r} enumeration; "
            "only 'parallel' is possible"
        )


def _first_line(error: BaseException) -> str:
    return str(error).split("\n")[0]
