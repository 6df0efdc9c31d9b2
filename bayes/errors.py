"""Every public exception and warning."""

__all__ = [
    "BayesError",
    "ConvergenceWarning",
    "DataError",
    "DataWarning",
    "FileError",
    "InitError",
    "ModelError",
    "NoDrawsError",
    "SettingsError",
    "ShapeError",
    "UnsupportedModelError",
]


class BayesError(Exception):
    """Base of every error that bayes raises on purpose."""


class DataError(BayesError, ValueError):
    """The data cannot be used: names the column and the rows at fault."""


class ShapeError(DataError):
    """Shapes, lengths or coordinates do not fit each other."""


class ModelError(BayesError, ValueError):
    """The program is not a usable model: names the site at fault."""


class InitError(ModelError):
    """No start with a finite log density and gradient was found: names the sites at fault."""


class UnsupportedModelError(ModelError):
    """The method cannot treat this model: says what is missing and which methods fit."""


class SettingsError(BayesError, ValueError):
    """An option has a value that makes no sense."""


class NoDrawsError(BayesError, RuntimeError):
    """A run was stopped before it had a single draw.

    Parameters
    ----------
    message : str
        What happened, and what to do.
    reason : str, optional
        ``"keyboard"`` or ``"budget"``, where that is what stopped it.
    """

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason


class FileError(BayesError, OSError):
    """A saved posterior or a checkpoint is damaged, foreign, newer or of another model."""


class DataWarning(UserWarning):
    """The data are usable, but something about them deserves a look."""


class ConvergenceWarning(UserWarning):
    """The posterior failed its diagnostics and is not to be trusted as it is."""
