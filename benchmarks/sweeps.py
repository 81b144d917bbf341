"""What a sweep of many small checkpoints spends on disk, compilation and memory: benchmarks/SWEEPS.md.

`python benchmarks/sweeps.py` makes 10, 100 and 1,000 Orbax checkpoints of a small network in a temporary folder,
sweeps each in a process of its own with 4 chains, and writes the table.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

TABLE = Path(__file__).parent / "SWEEPS.md"
COUNTS = (10, 100, 1000)
WIDTHS = (16, 32, 8)
BLOCK = 50
LENGTHS = {"num_chains": 4, "num_draws": 500, "burn_in": 400, "thin": 4, "batch_size": 256}
COMPILED = "/jax/core/compile/backend_compile_duration"


def apply(params: Any, batch: jax.Array) -> jax.Array:
    return jnp.tanh(batch @ params["inner"]) @ params["outer"]


def save(folder: Path, count: int) -> None:
    """A walk of weights, one Orbax checkpoint a step."""
    from orbax import checkpoint as ocp

    rng = np.random.default_rng(0)
    params = {"inner": rng.normal(size=WIDTHS[:2]) / 4, "outer": rng.normal(size=WIDTHS[1:]) / 6}
    with ocp.CheckpointManager(folder) as manager:
        for step in range(count):
            params = {name: w + 0.01 * rng.normal(size=w.shape) for name, w in params.items()}
            stored = {name: w.astype(np.float32) for name, w in params.items()}
            manager.save(10 * step, args=ocp.args.StandardSave({"params": stored}))


class Waiting:
    """Seconds that the thread which samples spends in some functions."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def inside(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

        return timed

    def of_iterator(self, name: str, make: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        """What makes an iterator, every step of which is timed."""

        def made(*args: Any, **kwargs: Any) -> Iterator[Any]:
            iterator = make(*args, **kwargs)
            step = self.inside(name, lambda: next(iterator, None))
            while (found := step()) is not None:
                yield found

        return made


def measure(folder: Path) -> dict[str, Any]:
    """Sweep a folder; run in a process of its own."""
    import sltjax
    from sltjax.sweeps import blocks, run
    from sltjax.sweeps.ledger import Ledger

    waiting, compiled, resident = Waiting(), [], []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration_secs, **kwargs: compiled.append(duration_secs) if event == COMPILED else None
    )
    blocks.read_ahead = waiting.of_iterator("reading", blocks.read_ahead)
    Ledger.add = waiting.inside("writing units", Ledger.add)
    Ledger.__exit__ = waiting.inside("writing units", Ledger.__exit__)
    run.write_results = waiting.inside("writing the Dataset", run.write_results)
    sample = blocks.Job._sample_at_once

    def watched(*args: Any) -> Any:
        resident.append(resident_bytes())
        return sample(*args)

    blocks.Job._sample_at_once = watched
    checkpoints = sltjax.checkpoints.from_orbax(folder / "run")
    data = jax.random.normal(jax.random.key(0), (5000, WIDTHS[0]))
    began = time.perf_counter()
    dataset = sltjax.sweep(
        jax.random.key(1),
        sltjax.behavioral_loss(apply),
        checkpoints,
        data,
        store=folder / "store",
        sampler=sltjax.UnderdampedLangevin(1e-3),
        block_size=BLOCK,
        **LENGTHS,
    )
    seconds = time.perf_counter() - began
    assert (dataset.status == "done").all()
    return {
        "seconds": seconds,
        "compile_seconds": sum(compiled),
        "programs": len(compiled),
        "resident": resident,
        **waiting.seconds,
    }


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def line(count: int, found: dict[str, Any]) -> str:
    parts = ("reading", "writing units", "writing the Dataset")
    waited = sum(found.get(name, 0.0) for name in parts)
    resident = found["resident"]
    first, last = (resident[min(2, len(resident) - 1)] / 2**20, resident[-1] / 2**20)
    cells = [
        f"{count:,}",
        f"{found['seconds']:.0f}",
        f"{found['compile_seconds']:.1f}",
        str(found["programs"]),
        *(f"{found.get(name, 0.0):.1f}" for name in parts),
        f"{waited / found['seconds']:.1%}",
        f"{first:.0f} → {last:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measure(Path(sys.argv[1]))))
        return
    lines = []
    for count in COUNTS:
        with tempfile.TemporaryDirectory() as folder:
            save(Path(folder) / "run", count)
            done = subprocess.run([sys.executable, __file__, folder], stdout=subprocess.PIPE, text=True, check=True)
        lines.append(line(count, json.loads(done.stdout.splitlines()[-1])))
        print(lines[-1], flush=True)
    columns = [
        "checkpoints",
        "seconds",
        "compiling",
        "programs",
        "waiting for reads",
        "for units",
        "for the Dataset",
        "waiting in all",
        "MiB resident, third block → last",
    ]
    versions = ", ".join(f"{name} {version(name)}" for name in ("jax", "orbax-checkpoint", "numpy"))
    size = sum(a * b for a, b in pairwise(WIDTHS))
    TABLE.write_text(f"""# Sweeps of many checkpoints

A network {"-".join(map(str, WIDTHS))} of {size} parameters, saved with Orbax, swept with {LENGTHS["num_chains"]} chains
of {LENGTHS["num_draws"] * LENGTHS["thin"] + LENGTHS["burn_in"]:,} steps in blocks of {BLOCK}, by `python
benchmarks/sweeps.py` on {os.cpu_count()} × {platform.machine()}, Python {platform.python_version()}, {versions}.
*Waiting*: seconds in which the thread that samples stood still for the disk; reading and writing go on in threads of
their own meanwhile.

| {" | ".join(columns)} |
{"|---" * len(columns)}|
{chr(10).join(lines)}
""")


if __name__ == "__main__":
    main()
