"""The command line: fit a model's file, look at a saved posterior, list the methods."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import pathlib
import warnings
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from bayes import cli_calibration, cli_surrogates
from bayes.cli_reading import read_model, read_module
from bayes.errors import (
    BayesError,
    ConvergenceWarning,
    NoDrawsError,
    SettingsError,
)

__all__ = ["main"]

NOT_OK, WRONG_INPUT, INTERRUPTED = 3, 2, 130

_EXAMPLES = """
Examples:

  bayes fit models/eight_schools.py --save schools.zarr

  bayes fit my_model.py --data table.csv --method nuts --set draws=2000 --set target_accept=0.95

  bayes fit my_model.py --data table.csv --method my.safetensors

  bayes summary schools.zarr

  bayes methods

Exit codes: 0 the posterior passed its checks, 3 it did not, 2 wrong input, 130 interrupted.
"""

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Bayesian inference for NumPyro programs, with a verdict on every posterior.",
    epilog=_EXAMPLES,
)


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """Errors of ours and of the file system as one line on stderr."""
    try:
        yield
    except (BayesError, OSError, MemoryError) as error:
        typer.echo(f"bayes: {type(error).__name__}: {error}", err=True)
        by_user = isinstance(error, NoDrawsError) and "(keyboard)" in str(error)
        raise typer.Exit(INTERRUPTED if by_user else WRONG_INPUT) from error
    except KeyboardInterrupt as error:
        typer.echo("bayes: interrupted", err=True)
        raise typer.Exit(INTERRUPTED) from error


@app.command(epilog=_EXAMPLES)
def fit(
    file: Annotated[
        pathlib.Path, typer.Argument(help="Python file with `model` and, without --data, `data()`.")
    ],
    data: Annotated[
        pathlib.Path | None, typer.Option(help="Table or arguments: .csv, .json or .parquet.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(help="Name of a method, see `bayes methods`, or a trained .safetensors file."),
    ] = "nuts",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of the method, option=value; may be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option(help="All randomness comes from it.")] = 0,
    reparam: Annotated[
        str | None, typer.Option(help="'auto' non-centres sites with latent parents.")
    ] = None,
    refine: Annotated[
        str | None, typer.Option(help="'psis' or 'nuts' corrects an approximation's draws.")
    ] = None,
    budget: Annotated[float | None, typer.Option(help="Seconds after which to stop.")] = None,
    checkpoint: Annotated[
        pathlib.Path | None, typer.Option(help="Folder to write to and to resume from.")
    ] = None,
    save: Annotated[pathlib.Path | None, typer.Option(help="Where to save the posterior.")] = None,
    report: Annotated[
        pathlib.Path | None, typer.Option(help="Where to write a report: .html, .md or .json.")
    ] = None,
    progress: Annotated[bool | None, typer.Option(help="Show a progress line.")] = None,
) -> None:
    """Fit the model in FILE and print its summary and verdict."""
    with _plain_errors():
        is_trained = cli_surrogates.is_trained(method)
        chosen: Any = None if is_trained else _configure(method, settings or [])
        import bayes
        from bayes.diagnostics.report.report import require_writable
        from bayes.storage import require_replaceable

        if save is not None:
            require_replaceable(save)  # before the fit, not after it
        if report is not None:
            require_writable(report)
        model, table = read_model(file, data, reparam)
        if is_trained:
            chosen = cli_surrogates.load_trained(method, model, settings or [])

        with warnings.catch_warnings():
            # The verdict is printed below.
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.showwarning = _show_warning
            posterior = bayes.fit(
                model,
                table,
                chosen,
                seed=seed,
                refine=refine,
                budget=budget,
                checkpoint=checkpoint,
                progress=progress,
            )
        typer.echo(_table(posterior))
        typer.echo(f"\n{posterior.diagnostics}")
        seconds = posterior.method.seconds
        typer.echo(f"\n{posterior.method} ({seconds:.1f} s)")
        if save is not None:
            posterior.save(save)
            typer.echo(f"saved to {save}")
        if report is not None:
            posterior.report(report, title=f"Posterior of {file.stem}", seed=seed)
            typer.echo(f"report written to {report}")
    if posterior.diagnostics.interrupted == "keyboard":
        raise typer.Exit(INTERRUPTED)
    if not posterior.diagnostics.ok:
        raise typer.Exit(NOT_OK)


@app.command(epilog="Example:\n\n  bayes summary schools.zarr")
def summary(
    posterior: Annotated[pathlib.Path, typer.Argument(help="A saved posterior.")],
    rows: Annotated[int, typer.Option(help="Most rows to print; 0 for all.")] = 60,
) -> None:
    """Print the summary and the verdict of a saved posterior."""
    with _plain_errors():
        from bayes.storage import load

        loaded = load(posterior)
        typer.echo(_table(loaded, rows))
        typer.echo(f"\n{loaded.diagnostics}")
    if not loaded.diagnostics.ok:
        raise typer.Exit(NOT_OK)


@app.command(
    epilog="Examples:\n\n  bayes report schools.zarr\n\n"
    "  bayes report schools.zarr --model models/eight_schools.py --out schools.md"
)
def report(
    posterior: Annotated[pathlib.Path, typer.Argument(help="A saved posterior.")],
    model: Annotated[
        pathlib.Path | None,
        typer.Option(help="Its model's Python file, for what is computed from the model."),
    ] = None,
    out: Annotated[
        pathlib.Path | None,
        typer.Option(help="Where to write: .html (by default, beside it), .md or .json."),
    ] = None,
    title: Annotated[str | None, typer.Option(help="The report's heading.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of prior and predictive draws.")] = 0,
) -> None:
    """Write what the diagnostics of a saved posterior say, with figures, as one file."""
    with _plain_errors():
        from bayes.diagnostics.report.report import require_writable
        from bayes.gallery import Entry
        from bayes.storage import load

        beside = pathlib.Path(f"{str(posterior).removesuffix('.zarr')}.html")
        path = beside if out is None else out
        require_writable(path)  # before the work for it, not after it
        entry = None if model is None else Entry(model.stem, read_module(model))
        loaded = load(posterior, None if entry is None else entry.model)
        name = f"Posterior of {entry.name}" if entry is not None and title is None else title
        loaded.report(path, title=name, seed=seed)
        typer.echo(f"report written to {path}")
    if not loaded.diagnostics.ok:
        raise typer.Exit(NOT_OK)


@app.command(epilog="Example:\n\n  bayes methods")
def methods() -> None:
    """List the methods, and the settings that --set takes."""
    from bayes.method import describe
    from bayes.method import methods as all_methods

    for name, cls in all_methods().items():
        title = (cls.__doc__ or "").strip().splitlines()[0]
        typer.echo(f"{name}: {title}")
        for field in dataclasses.fields(cls):
            typer.echo(f"  {field.name}={describe(field.default)}")
    typer.echo("")
    for line in cli_surrogates.learned_methods():
        typer.echo(line)


app.command(epilog=cli_surrogates.EXAMPLES)(cli_surrogates.amortize)
app.command(epilog=cli_calibration.EXAMPLES)(cli_calibration.sbc)


def _table(posterior: Any, rows: int = 60) -> str:
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        table = posterior.summary()
    cut = len(table) - rows if rows and len(table) > rows else 0
    with pd.option_context("display.width", 120, "display.max_columns", 20):
        text = (table.head(rows) if cut else table).to_string()
    return text + (f"\n... and {cut} more rows" if cut else "")


def _show_warning(message: Any, *_: Any, **__: Any) -> None:
    typer.echo(f"bayes: warning: {message}", err=True)


def _configure(name: str, settings: list[str]) -> Any:
    """The method of a name with settings; values are Python literals, else strings."""
    from bayes.method import method_by_name

    if name == "auto" and not settings:
        return name
    method = method_by_name("nuts" if name == "auto" else name)
    values = _settings_of(method, name, settings)
    try:
        return dataclasses.replace(method, **values)
    except TypeError as error:
        raise SettingsError(f"--set: {error}") from error


def _settings_of(
    configured: Any, name: str, settings: list[str], known: set[str] | None = None
) -> dict[str, Any]:
    """Settings given as option=value, for a dataclass of them."""
    known = {f.name for f in dataclasses.fields(configured)} if known is None else known
    values: dict[str, Any] = {}
    for setting in settings:
        option, equals, text = setting.partition("=")
        if not equals or option not in known:
            raise SettingsError(
                f"--set {setting}: expected option=value with an option of {name}: "
                f"{', '.join(sorted(known))}"
            )
        try:
            values[option] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            values[option] = text
    return values


def main() -> None:
    """Run the command line."""
    app()
