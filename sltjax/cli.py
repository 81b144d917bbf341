"""The command line: `sltjax demo` shows the whole of it; plan, calibrate and run do it for your checkpoints.

Exit codes: 0 done, 3 partial (some checkpoints could not be used), 4 flagged (with --strict: an estimate carries a
warning), 130 interrupted (run again to go on), 1 failed.
"""

import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import pandas as pd
import typer
import xarray as xr
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from sltjax.calibration import Calibration
    from sltjax.sweeps import Plan

PARTIAL = 3
FLAGGED = 4
INTERRUPTED = 130
RECIPE = "recipe.toml"  # the copy that a store keeps of what made it

app = typer.Typer(
    help="Singular learning theory diagnostics of JAX training runs.", no_args_is_help=True, add_completion=False
)
console = Console(highlight=False)


def main() -> None:
    """The entry point."""
    _keep_programs()
    app()


def _keep_programs() -> None:
    """Let jax keep what it compiles, unless it is told where; each machine apart, for their instructions differ."""
    import jax

    if jax.config.values["jax_compilation_cache_dir"] is None:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
        if caches.is_absolute():  # a user may have no home
            jax.config.update("jax_compilation_cache_dir", str(caches / "sltjax" / platform.node()))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # a hundred small ones add up


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
        _exit_by_status([dataset])


RecipeFile = Annotated[Path, typer.Argument(help="a TOML file; see the README")]


@app.command()
def plan(recipe: RecipeFile) -> None:
    """Say what a run will take, before anything is spent: checkpoints, memory, disk and time."""
    with _said_plainly():
        from sltjax.sweeps.recipe import read_recipe

        read = read_recipe(recipe)
        console.print("compiling a block, and running it for some seconds …")
        planned = {problem: read.plan(problem) for problem in read.problems}
        for problem, each in planned.items():
            console.print(_plan_table(each, problem))
        if not all(each.is_calibrated for each in planned.values()):
            console.print("lengths are not settled yet: `sltjax calibrate` settles them, and narrows these ranges")


@app.command()
def calibrate(recipe: RecipeFile) -> None:
    """Choose the numerics from a few checkpoints, for `run` to go on with."""
    with _said_plainly():
        from sltjax.sweeps.recipe import read_recipe

        read = read_recipe(recipe)
        for problem in read.problems:
            _head(problem)
            _tell_chosen(read.calibrate(problem), read.store_of(problem))


def _tell_chosen(chosen: "Calibration", folder: Path) -> None:
    """What calibration chose and why, on the screen and as a figure in the folder."""
    from sltjax import plots
    from sltjax.plots.drawing import with_error

    schedule = chosen.schedule
    console.print(
        f"{type(chosen.sampler).__name__}, {schedule.num_chains} chains of {schedule.num_draws:,} draws, one every "
        f"{schedule.thin} steps, after {schedule.burn_in:,} steps of burn-in, on {schedule.batch_size:,} examples"
    )
    for step, (index, seen) in dict(zip(chosen.steps, enumerate(chosen.pilot), strict=False)).items():
        value, error = with_error(seen.value, seen.std_error), chosen.expected_error(index)
        console.print(f"pilot at step {step:,}: λ̂ = {value}; the error will be about {error:.1%}")
    if chosen.wanted_draws > schedule.num_draws:
        console.print(
            f"an error of {chosen.error:.1%} and chains that agree would take {chosen.wanted_draws:,} draws: raise "
            "max_chain_steps, or num_draws if it is set, for that"
        )
    if chosen.pilot:
        plots.calibration(chosen).savefig(folder / "calibration.png", dpi=150)
        console.print(f"figure  {folder / 'calibration.png'}", soft_wrap=True)


def _head(problem: str | None) -> None:
    if problem is not None:
        console.print(f"part  {problem}", markup=False)


@app.command()
def run(
    recipe: RecipeFile,
    shard: Annotated[str | None, typer.Option(help="i/N: this process's share, of N on one store")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="exit with 4 if an estimate carries a warning")] = False,
) -> None:
    """Estimate λ at every checkpoint of your run, or go on where an earlier call was stopped."""
    with _said_plainly(), _interruptible():
        from sltjax.store import write_atomically
        from sltjax.sweeps.recipe import read_recipe

        read = read_recipe(recipe)
        console.print(
            f"checkpoints  {read.checkpoints_format}, in {read.checkpoints_path}", soft_wrap=True, markup=False
        )
        found = []
        for problem in read.problems:
            _head(problem)
            found.append(read.run(problem, progress=True, shard=_shard(shard)))
        counts = [dataset.sizes["checkpoint"] for dataset in found]
        total = len(read.source().steps) if shard else min(counts)
        if min(counts) < total:
            console.print(f"this shard is done; {min(counts)} of {total} checkpoints are there so far")
            return
        write_atomically(read.store_path / RECIPE, recipe.read_bytes())
        _present(found[0], read.store_path)
        _exit_by_status(found, strict)


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    try:
        index, count = map(int, text.split("/"))
    except ValueError:
        raise ValueError(f"--shard: got {text!r}, expected i/N, such as 0/4") from None
    return index, count


@app.command()
def report(store: Annotated[Path, typer.Argument(help="the folder of a finished run's results")]) -> None:
    """Write figure, table of stages and report anew from results that are there."""
    with _said_plainly():
        from sltjax.results import open_results

        _present(open_results(store).load(), store)


def _present(dataset: xr.Dataset, folder: Path) -> None:
    """Stages, figure and report into the folder, the stages on the screen as well."""
    from sltjax import plots
    from sltjax.development import components, stages
    from sltjax.report import write_report
    from sltjax.results import open_parts

    table, parts = stages(dataset), open_parts(folder)
    table.to_csv(folder / "stages.csv", index=False)
    plots.development(dataset, table).savefig(folder / "development.png", dpi=150)
    recipe = folder / RECIPE
    told = recipe.read_text(encoding="utf-8") if recipe.exists() else ""
    page = write_report(dataset, table, folder / "report.html", parts, told)
    if parts:
        plots.components(components(parts)).savefig(folder / "components.png", dpi=150)
    console.print(_screen_table(table))
    flagged = int(((dataset["status"] == "done") & ~dataset["ok"]).sum())
    if flagged:
        console.print(f"{flagged} of {dataset.sizes['checkpoint']} estimates carry a warning: see the report")
    console.print(f"figure  {folder / 'development.png'}\nreport  {page}", soft_wrap=True)


def _screen_table(stages: pd.DataFrame) -> Table | str:
    if stages.empty:
        return "no stages: no transition of λ̂ from one level to another stands out among these checkpoints"
    exact = "exact_delta_llc" in stages
    table = Table(
        "stage", "from", "to", "onset", "end", "Δloss", "Δλ̂", *(["exact Δλ"] if exact else []), title="stages"
    )
    for row in stages.itertuples():
        cells = [f"{row.stage}{row.kind}", f"{row.from_step:.0f}", f"{row.to_step:.0f}", f"{row.onset:.0f}"]
        cells += [f"{row.end:.0f}", f"{row.delta_loss:+.3g}", f"{row.delta_llc:+.2f} ± {row.delta_llc_std_error:.2f}"]
        table.add_row(*cells, *([f"{row.exact_delta_llc:+g}"] if exact else []))
    return table


def _plan_table(plan: "Plan", problem: str | None = None) -> Table:
    """A line a number, with its unit."""
    table = Table(show_header=False, title=f"plan of {problem}" if problem else "plan", title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column()
    fits = "" if not plan.memory_limit > 0 else f", of {_size(plan.memory_limit)}"
    if plan.memory > plan.memory_limit:
        fits += ": does not fit; block_size will be halved until it does"
    first, last = plan.steps[0], plan.steps[-1]
    lines = {
        "checkpoints": f"{len(plan.steps):,}, steps {first:,} to {last:,}; {plan.done:,} done already",
        "skipped": "\n".join(f"{skipped.name}: {skipped.reason}" for skipped in plan.skipped) or "none",
        "model": f"{plan.num_parameters:,} parameters",
        "data": f"{plan.num_examples:,} examples, {plan.batch_size:,} a step",
        "lanes": f"{plan.num_lanes:,}: {plan.num_chains} chains at each checkpoint",
        "blocks": f"{plan.num_blocks:,} of {plan.block_size} checkpoints",
        "devices": plan.devices,
        "memory": f"{_size(plan.memory)} a block{fits}",
        "compilation": f"{plan.programs} programs, {plan.compile_seconds:.0f} s, whatever the number of checkpoints",
        "steps": f"{_range(plan.chain_steps, _count)} chain-steps a checkpoint",
        "FLOPs": _range(plan.flops, _count),
        "disk": _range(plan.disk, _size),
        "time": _range(plan.seconds, _duration),
    }
    for name, value in lines.items():
        table.add_row(name, value)
    return table


def _range(numbers: tuple[float | int, ...], said: Callable[[float | int], str]) -> str:
    return " to ".join(dict.fromkeys(map(said, numbers)))


def _count(number: float | int) -> str:
    return f"{number:,.0f}" if number < 1e6 else f"{number:.1e}"


def _size(number: float | int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if number >= size:
            return f"{number / size:,.1f} {unit}"
    return f"{number / 2**10:,.0f} KiB"


def _duration(seconds: float | int) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.0f} seconds"


def _exit_by_status(datasets: Sequence[xr.Dataset], strict: bool = False) -> None:
    """By the whole and its parts, which have the same checkpoints."""
    failed = max(int((dataset["status"] == "failed").sum()) for dataset in datasets)
    if failed:
        console.print(f"{failed} of {datasets[0].sizes['checkpoint']} checkpoints could not be used: see the report")
        raise typer.Exit(PARTIAL)
    if strict and not all(dataset["ok"].all() for dataset in datasets):
        raise typer.Exit(FLAGGED)


@contextmanager
def _interruptible() -> Iterator[None]:
    """The first signal ends the run in good order, keeping what is done; a second one ends it at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        for again in (signal.SIGINT, signal.SIGTERM):
            signal.signal(again, lambda number, frame: os._exit(INTERRUPTED))
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
    except (
        CheckpointError,
        StoreError,
        RecipeError,
        ValueError,
        TypeError,
        OSError,
        MemoryError,
        ModuleNotFoundError,
    ) as error:
        errors.print(f"error: {error}", markup=False, soft_wrap=True)
        sys.exit(1)
