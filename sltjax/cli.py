"""The command line: `sltjax demo` shows the whole of it, `sltjax run` does it for your checkpoints.

Exit codes: 0 done, 3 partial (some checkpoints could not be used), 130 interrupted (run again to go on), 1 failed.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
import xarray as xr
from rich.console import Console
from rich.table import Table

PARTIAL = 3
INTERRUPTED = 130

app = typer.Typer(
    help="Singular learning theory diagnostics of JAX training runs.", no_args_is_help=True, add_completion=False
)
console = Console(highlight=False)


def main() -> None:
    """The entry point."""
    app()


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="where checkpoints, results and the report go")] = Path("sltjax-demo"),
    quick: Annotated[bool, typer.Option("--quick", help="fewer checkpoints and draws: half a minute")] = False,
) -> None:
    """Train a network whose learning coefficient is known, and find its stages from checkpoints alone."""
    with _said_plainly():
        from sltjax.demo import FULL, QUICK, plateaus, run_demo

        start = time.perf_counter()
        console.print("training a linear network 10-4-10, saving it with Orbax, sampling around every checkpoint …")
        dataset = run_demo(folder, QUICK if quick else FULL)
        _present(dataset, folder)
        table = Table("exact λ", "λ̂ on the plateau", "off by", title="plateaus")
        for exact, value, error in plateaus(dataset):
            table.add_row(f"{exact:g}", f"{value:.2f} ± {error:.2f}", f"{100 * (value / exact - 1):+.1f} %")
        console.print(table, f"{time.perf_counter() - start:.0f} seconds in all")
        _exit_by_status(dataset)


@app.command()
def run(recipe: Annotated[Path, typer.Argument(help="a TOML file; see the README")]) -> None:
    """Estimate λ at every checkpoint of your run, or go on where an earlier call was stopped."""
    with _said_plainly():
        from sltjax.sweeps.recipe import read_recipe

        read = read_recipe(recipe)
        console.print(
            f"checkpoints  {read.checkpoints_format}, in {read.checkpoints_path}", soft_wrap=True, markup=False
        )
        dataset = read.run(progress=True)
        _present(dataset, read.store_path)
        _exit_by_status(dataset)


@app.command()
def report(store: Annotated[Path, typer.Argument(help="the folder of a finished run's results")]) -> None:
    """Write figure, table of stages and report anew from results that are there."""
    with _said_plainly():
        from sltjax.results import open_results

        _present(open_results(store).load(), store)


def _present(dataset: xr.Dataset, folder: Path) -> None:
    """Stages, figure and report into the folder, the stages on the screen as well."""
    from sltjax.development import stages
    from sltjax.plots import development
    from sltjax.report import write_report

    table = stages(dataset)
    table.to_csv(folder / "stages.csv", index=False)
    development(dataset, table).savefig(folder / "development.png", dpi=150)
    page = write_report(dataset, table, folder / "report.html")
    console.print(_screen_table(table))
    flagged = int(((dataset["status"] == "done") & ~dataset["ok"]).sum())
    if flagged:
        console.print(f"{flagged} of {dataset.sizes['checkpoint']} estimates carry a warning: see the report")
    console.print(f"figure  {folder / 'development.png'}\nreport  {page}", soft_wrap=True)


def _screen_table(stages: pd.DataFrame) -> Table | str:
    if stages.empty:
        return "no stages: λ̂ does not change beyond its error"
    exact = "exact_delta_llc" in stages
    table = Table(
        "stage", "from", "to", "onset", "end", "Δloss", "Δλ̂", *(["exact Δλ"] if exact else []), title="stages"
    )
    for row in stages.itertuples():
        cells = [f"{row.stage}{row.kind}", f"{row.from_step:.0f}", f"{row.to_step:.0f}", f"{row.onset:.0f}"]
        cells += [f"{row.end:.0f}", f"{row.delta_loss:+.3g}", f"{row.delta_llc:+.2f} ± {row.delta_llc_std_error:.2f}"]
        table.add_row(*cells, *([f"{row.exact_delta_llc:+g}"] if exact else []))
    return table


def _exit_by_status(dataset: xr.Dataset) -> None:
    failed = int((dataset["status"] == "failed").sum())
    if failed:
        console.print(f"{failed} of {dataset.sizes['checkpoint']} checkpoints could not be used: see the report")
        raise typer.Exit(PARTIAL)


@contextmanager
def _said_plainly() -> Iterator[None]:
    """Errors that are the user's to mend end in a sentence, not in a traceback."""
    from sltjax.checkpoints import CheckpointError
    from sltjax.store import StoreError
    from sltjax.sweeps.recipe import RecipeError

    errors = Console(stderr=True, highlight=False)
    try:
        yield
    except KeyboardInterrupt:
        errors.print("interrupted; what is finished is kept: the same command goes on from here")
        sys.exit(INTERRUPTED)
    except (CheckpointError, StoreError, RecipeError, ValueError, TypeError, OSError) as error:
        errors.print(f"error: {error}", markup=False, soft_wrap=True)
        sys.exit(1)
