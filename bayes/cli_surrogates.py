"""The command ``bayes amortize``, and trained surrogates where a method is named."""

from __future__ import annotations

import dataclasses
import pathlib
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bayes.errors import ConvergenceWarning, SettingsError

if TYPE_CHECKING:
    from bayes.surrogates.amortizer import Amortizer
    from bayes.surrogates.surrogate import Surrogate

__all__ = ["EXAMPLES", "amortize", "is_trained", "learned_methods", "load_trained"]

EXAMPLES = """
Examples:

  bayes amortize models/eight_schools.py --budget 600 --save schools.safetensors

  bayes amortize my_model.py --data table.csv --rows 200 --components 4 --save my.safetensors

  bayes fit my_model.py --data other.csv --method my.safetensors

Exit codes: 0 trained, 3 trained but its checks on simulations did not pass, 2 wrong input, 130
interrupted; what was learned until then is saved.
"""
_CLASSES = {
    "distribution_transformer": "DistributionTransformer",
    "simulation_bank": "SimulationBank",
}
_SUFFIX = ".safetensors"


def amortize(
    file: Annotated[
        pathlib.Path, typer.Argument(help="Python file with `model` and, without --data, `data()`.")
    ],
    save: Annotated[pathlib.Path, typer.Option(help="Where to save it: a .safetensors file.")],
    data: Annotated[
        pathlib.Path | None,
        typer.Option(help="Covariates and sizes: .csv, .json or .parquet."),
    ] = None,
    surrogate: Annotated[
        str, typer.Option(help=f"What is trained: {' or '.join(_CLASSES)}.")
    ] = "distribution_transformer",
    components: Annotated[int | None, typer.Option(help="Components of its mixtures.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of training.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of the surrogate, option=value; may be repeated."),
    ] = None,
    rows: Annotated[
        int | None, typer.Option(help="Largest number of rows; by default that of the data.")
    ] = None,
    seed: Annotated[int, typer.Option(help="All randomness comes from it.")] = 0,
    reparam: Annotated[
        str | None, typer.Option(help="'auto' non-centres sites with latent parents.")
    ] = None,
    budget: Annotated[float | None, typer.Option(help="Seconds for the training.")] = None,
    checkpoint: Annotated[
        pathlib.Path | None, typer.Option(help="Folder to write to and to resume from.")
    ] = None,
    progress: Annotated[bool | None, typer.Option(help="Show a progress line.")] = None,
) -> None:
    """Train a surrogate for the model in FILE, on simulations of it, and save it."""
    from bayes.cli import INTERRUPTED, NOT_OK, _plain_errors, _show_warning
    from bayes.cli_reading import read_model

    with _plain_errors():
        from bayes.surrogates.files import require_replaceable

        if save.suffix != _SUFFIX:
            raise SettingsError(f"--save {save}: a surrogate is a {_SUFFIX} file")
        require_replaceable(save)  # before the training, not after it
        named = {"components": components, "steps": steps}
        chosen = _configured(surrogate, named, settings or [])
        model, table = read_model(file, data, reparam)
        import bayes

        with warnings.catch_warnings():
            # The verdict is printed below.
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.showwarning = _show_warning
            trained = bayes.amortize(
                model,
                table,
                chosen,
                seed=seed,
                rows=rows,
                budget=budget,
                checkpoint=checkpoint,
                progress=progress,
            )
        training, checks = _found(trained)
        typer.echo(f"{surrogate} of {trained.reference.model.name}{_in_words(training)}")
        if checks is not None:
            typer.echo(f"\n{checks}\n")
        trained.save(save)
        typer.echo(f"saved to {save}")
    if training.get("interrupted") == "keyboard":
        raise typer.Exit(INTERRUPTED)
    if checks is not None and not checks.ok:
        raise typer.Exit(NOT_OK)


def _configured(name: str, named: dict[str, Any], settings: list[str]) -> Amortizer:
    """Settings of a surrogate that is to be trained."""
    import bayes
    from bayes.cli import _settings_of

    if name not in _CLASSES:
        raise SettingsError(f"--surrogate {name}: there are {', '.join(_CLASSES)}")
    default = getattr(bayes, _CLASSES[name])()
    known = {f.name for f in dataclasses.fields(default)}
    given = {k: v for k, v in named.items() if v is not None}
    unknown = [k for k in given if k not in known]
    if unknown:
        raise SettingsError(f"--{unknown[0]}: {name} has no such setting")
    return dataclasses.replace(default, **{**given, **_settings_of(default, name, settings)})


def _found(trained: Surrogate) -> tuple[dict[str, Any], Any]:
    """How the training went, and the checks that came after it."""
    from bayes.surrogates.global_results import GlobalChecks

    checks = getattr(trained, "checks", None)
    read = None if checks is None else GlobalChecks.from_dict(checks)
    return dict(getattr(trained, "training", None) or {}), read


def _in_words(training: dict[str, Any]) -> str:
    words = []
    if "steps" in training:
        words.append(f"{training['steps']} steps")
    if "seconds" in training:
        words.append(f"{training['seconds']:.0f} s")
    if training.get("loss"):
        words.append(f"loss {training['loss'][-1]:.4g}")
    if training.get("interrupted"):
        words.append(f"stopped early: {training['interrupted']}")
    return f": {', '.join(words)}" if words else ""


def is_trained(method: str) -> bool:
    """Whether a method on the command line is a file of a trained surrogate, not a name."""
    path = pathlib.Path(method)
    return path.suffix == _SUFFIX or (path.is_file() and not method.isidentifier())


def load_trained(path: str, model: Any, settings: list[str]) -> Surrogate:
    """A trained surrogate with settings of the command line."""
    from bayes.cli import _settings_of
    from bayes.surrogates.files import SETTINGS, load_surrogate

    trained = load_surrogate(path, model)
    return trained.replace(**_settings_of(trained, path, settings, set(SETTINGS)))


def learned_methods() -> Iterator[str]:
    """Lines on the surrogates that can be trained, and the settings that --set takes."""
    import bayes
    from bayes.method import describe

    yield "Learned from simulations of a model: bayes amortize FILE --surrogate NAME --save X, then"
    yield "bayes fit FILE --method X"
    for name, class_name in _CLASSES.items():
        cls = getattr(bayes, class_name)
        yield f"{name}: {(cls.__doc__ or '').strip().splitlines()[0]}"
        for field in dataclasses.fields(cls):
            yield f"  {field.name}={describe(field.default)}"
