"""The command ``bayes sbc``: calibration of a model's file and a method."""

from __future__ import annotations

import pathlib
import warnings
from typing import TYPE_CHECKING, Annotated

import typer

from bayes.errors import SettingsError

if TYPE_CHECKING:
    from bayes.calibration.result import Calibration

__all__ = ["EXAMPLES", "sbc"]

EXAMPLES = """
Examples:

  bayes sbc models/eight_schools.py --simulations 100 --folder schools-sbc --plot ranks.svg

  bayes sbc my_model.py --data design.csv --method hmc

Exit codes: 0 calibrated, 3 not, 2 wrong input, 130 interrupted.
"""
_SUFFIXES = (".png", ".svg", ".pdf")
_MOST_ROWS = 60


def sbc(
    file: Annotated[
        pathlib.Path, typer.Argument(help="Python file with `model` and, without --data, `data()`.")
    ],
    data: Annotated[
        pathlib.Path | None, typer.Option(help="The design: .csv, .json or .parquet.")
    ] = None,
    method: Annotated[str, typer.Option(help="Name of a method; see `bayes methods`.")] = "nuts",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of the method, option=value; may be repeated."),
    ] = None,
    simulations: Annotated[int, typer.Option(help="How many; 20 at least.")] = 200,
    seed: Annotated[int, typer.Option(help="All randomness comes from it.")] = 0,
    reparam: Annotated[
        str | None, typer.Option(help="'auto' non-centres sites with latent parents.")
    ] = None,
    folder: Annotated[
        pathlib.Path | None, typer.Option(help="Folder of simulations, to go on from.")
    ] = None,
    plot: Annotated[
        pathlib.Path | None, typer.Option(help="Where to draw the ranks: .png, .svg or .pdf.")
    ] = None,
    progress: Annotated[bool | None, typer.Option(help="Show a progress line.")] = None,
) -> None:
    """Fit the model in FILE to data drawn from it, and judge the posteriors."""
    from bayes.cli import INTERRUPTED, NOT_OK, _configure, _plain_errors, _show_warning
    from bayes.cli_reading import read_model

    with _plain_errors():
        if plot is not None and plot.suffix not in _SUFFIXES:
            raise SettingsError(f"--plot {plot}: figures are {', '.join(_SUFFIXES)}")
        chosen = _configure(method, settings or [])
        model, table = read_model(file, data, reparam)
        import bayes

        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            found = bayes.sbc(
                model,
                table,
                chosen,
                simulations,
                seed=seed,
                folder=folder,
                progress=progress,
            )
        typer.echo(_table(found))
        typer.echo(f"\n{found.verdict}")
        typer.echo(f"\n{found.model} by {found.method} ({found.seconds:.1f} s)")
        if plot is not None:
            found.plot().savefig(plot)
            typer.echo(f"ranks drawn in {plot}")
    if found.interrupted is not None:
        raise typer.Exit(INTERRUPTED)
    if not found.ok:
        raise typer.Exit(NOT_OK)


def _table(found: Calibration) -> str:
    import pandas as pd

    table = found.summary()
    cut = max(0, len(table) - _MOST_ROWS)
    if cut:
        table = table.sort_values("p_adjusted", kind="stable").head(_MOST_ROWS)
    with pd.option_context("display.width", 160, "display.max_columns", 20):
        text = table.to_string(float_format="{:.3g}".format)
    return text + (f"\n... and {cut} more rows with larger p values" if cut else "")
