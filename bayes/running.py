"""A program run once as it is written, and what an error in it means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import numpyro
from numpyro import handlers
from numpyro.infer.initialization import init_to_sample

from bayes.data import Data
from bayes.errors import BayesError, DataError, ModelError, ShapeError

__all__ = ["StrictTrace", "explain", "run_program"]


class StrictTrace(handlers.trace):
    """A trace that does not let a plate take the place of a site of the same name."""

    def postprocess_message(self, msg: dict[str, Any]) -> None:
        """Keep a site; NumPyro refuses two samples of a name, and this a sample and a plate."""
        name = str(msg.get("name"))
        if msg["type"] == "plate" and self.trace.get(name, msg)["type"] != "plate":
            raise AssertionError(f"all sites must have unique names: '{name}' is a plate, too")
        super().postprocess_message(msg)


def run_program(fn: Callable, data: Data, seed: int) -> dict[str, Any]:
    """Run a program once on its data with latent values drawn from their priors.

    Raises
    ------
    ModelError, ShapeError
        Where the program itself fails, with the reason in the field's terms.
    """
    seeded = handlers.seed(fn, jax.random.key(seed))
    drawn = handlers.substitute(seeded, substitute_fn=init_to_sample())
    try:
        # Parameters are checked afterwards, where the site's name is known.
        with numpyro.validation_enabled(False), jax.numpy_rank_promotion("allow"):
            return StrictTrace(drawn).get_trace(**data.arguments)
    except BayesError:
        raise
    except Exception as error:
        raise explain(error, data) from error


_SHAPE_WORDS = (
    "broadcast",
    "incompatible",
    "shape",
    "dimension",
    "mismatch",
    "dot_general",
    "unsized object",
    "has no len()",
    "tuple index out of range",
    "too many indices",
)


def _is_whole(value: Any) -> bool:
    """Whether an array holds whole numbers as real ones, as a frame's column with gaps does."""
    if not hasattr(value, "dtype") or value.dtype.kind != "f":
        return False
    return bool(np.all(np.asarray(value) % 1 == 0))


def _among(names: list[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


def explain(error: Exception, data: Data) -> Exception:
    """Say what an error raised inside a program means."""
    text = str(error)
    lower = text.lower()
    if isinstance(error, AssertionError) and "unique names" in text:
        return ModelError(f"a site name is used twice: {text}")
    if isinstance(error, IndexError) and "out of bounds" in lower:
        return DataError(
            f"the program indexes an array out of its bounds (data: {data.shapes_text()}): {text}; "
            "indices count from 0"
        )
    if isinstance(error, TypeError) and "indexer must have integer" in lower:
        whole = [n for n, v in data.arrays.items() if _is_whole(v)]
        return DataError(
            f"the program indexes an array with real numbers{_among(whole)}; make the column "
            "integers or a category: "
            f"frame['{whole[0] if whole else 'column'}'].astype('category')"
        )
    if isinstance(error, (ValueError, TypeError, AssertionError, IndexError)) and any(
        words in lower for words in _SHAPE_WORDS
    ):
        return ShapeError(f"shapes do not fit in the program (data: {data.shapes_text()}): {text}")
    if isinstance(error, (AttributeError, TypeError)) and "NoneType" in text:
        absent = [n for n, v in data.arguments.items() if v is None]
        return ModelError(
            "the program uses an argument that was not given"
            + (f" ({', '.join(absent)})" if absent else "")
            + f": {text}"
        )
    return ModelError(f"the program failed on its data: {type(error).__name__}: {text}")
