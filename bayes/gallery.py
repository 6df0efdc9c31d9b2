"""The gallery: published models with real data, from the source tree or the installed package."""

from __future__ import annotations

import difflib
import functools
import importlib.util
import pathlib
import sys
from collections.abc import Callable
from typing import Any

from bayes.errors import SettingsError
from bayes.model import Model

__all__ = ["Entry", "gallery", "gallery_names"]


class Entry:
    """A model of the gallery.

    Parameters
    ----------
    name : str
        Its name.
    module : module
        Its file, imported.
    """

    def __init__(self, name: str, module: Any) -> None:
        self.name = name
        self._module = module

    @property
    def module(self) -> Any:
        """Its file as a module, for what an entry has beyond the rest: helpers, other sizes."""
        return self._module

    @property
    def method(self) -> str:
        """Name of the method that fits it: that of its structure, or ``"nuts"``."""
        return getattr(self._module, "METHOD", "nuts")

    @property
    def program(self) -> Callable:
        """The NumPyro program."""
        return self._module.model

    @property
    def model(self) -> Model:
        """The program with names and labels of its dimensions, reparametrised where advised."""
        return Model(
            self._module.model,
            dims=getattr(self._module, "DIMS", None),
            coords=getattr(self._module, "COORDS", None),
            name=self.name,
            **self.settings,
        )

    def data(self) -> Any:
        """The real data."""
        return self._module.data()

    @property
    def settings(self) -> dict[str, Any]:
        """Options that a trustworthy fit needs, such as ``reparam="auto"``."""
        return dict(getattr(self._module, "SETTINGS", {}))

    @property
    def reference(self) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation by element, where they are known."""
        return dict(self._module.REFERENCE)

    @property
    def reference_source(self) -> str:
        """Where the reference comes from."""
        return self._module.REFERENCE_SOURCE

    @property
    def description(self) -> str:
        """What the model is, its source and its data's licence."""
        return self._module.__doc__ or ""

    def __repr__(self) -> str:
        return f"<{self.name}: {self.description.splitlines()[0]}>"


def _folder() -> pathlib.Path:
    here = pathlib.Path(__file__).resolve().parent
    installed = here / "_gallery"
    return installed if installed.is_dir() else here.parent / "models"


def gallery_names() -> list[str]:
    """Names of the gallery's models."""
    return sorted(p.stem for p in _folder().glob("*.py") if not p.stem.startswith("_"))


def gallery(name: str) -> Entry:
    """A model of the gallery.

    Parameters
    ----------
    name : str
        Its name, such as ``"eight_schools"``.

    Returns
    -------
    Entry
        With ``.model``, ``.data()`` and what its posterior should be.

    Raises
    ------
    SettingsError
        Where there is none of that name; lists those that exist.

    Examples
    --------
    >>> schools = bayes.gallery("eight_schools")
    >>> post = bayes.fit(schools.model, schools.data())
    """
    names = gallery_names()
    if name not in names:
        close = difflib.get_close_matches(str(name), names, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise SettingsError(f"no gallery model '{name}'; there are {', '.join(names)}{hint}")
    return Entry(name, _module(_folder() / f"{name}.py"))


@functools.cache
def _module(path: pathlib.Path) -> Any:
    """A file's module, the same at every call: one program, which is compiled once."""
    return load_file(path)


def load_file(path: pathlib.Path) -> Any:
    """Import a Python file by its path; what it defines runs."""
    spec = importlib.util.spec_from_file_location(f"bayes_file_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise SettingsError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up while it is imported.
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module
