"""How long until something happens: imports, and from the command to the first chain-step.

`python benchmarks/startup.py` writes startup.json, speed.py the table. The command is `sltjax run` on the run of
examples/4_cluster with its lengths settled, so that no pilot comes first; with an empty cache of programs, then with
that cache and a new store.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from results import load, write

FILE = Path(__file__).parent / "startup.json"
EXAMPLE = Path(__file__).parents[1] / "examples" / "4_cluster"
REPEATS = 5
LENGTHS = "[sampling]\nnum_chains = 4\nnum_draws = 10\nburn_in = 10\nthin = 1"

IMPORT = "import time; began = time.perf_counter(); import {}; print(time.perf_counter() - began)"
FIRST_STEP = """
import os, sys, time
began = time.time()
import jax
from sltjax import cli, sampling
advance = sampling._advance

def first(*args, **named):
    jax.block_until_ready(advance(*args, **named))
    print(time.time() - began, flush=True)
    os._exit(0)

sampling._advance = first
sys.argv = ["sltjax", "run", "recipe.toml"]
cli.main()
"""


def seconds(code: str, **options: Any) -> float:
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, **options)
    return float(told.stdout.split()[-1])


def first_steps() -> list[float]:
    """With an empty cache, then with a full one."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "run"
        shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("cluster-run", "__pycache__"))
        subprocess.run([sys.executable, "make_run.py"], cwd=folder, check=True, capture_output=True)
        recipe = folder / "recipe.toml"
        recipe.write_text(recipe.read_text().replace("[sampling]", LENGTHS))
        environment = {**os.environ, "XDG_CACHE_HOME": temporary}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        found = []
        for _ in range(REPEATS):
            shutil.rmtree(folder / "cluster-run" / "results", ignore_errors=True)
            found.append(seconds(FIRST_STEP, cwd=folder, env=environment))
        return found


def section() -> str:
    found = load(FILE)
    return (
        f"`import jax` takes {found['jax']:.2f} s, `import sltjax` {found['sltjax']:.2f} s, jax among it. From "
        f"`sltjax run` to its first chain-steps, without a pilot: {found['empty']:.1f} s with an empty cache of "
        f"programs, {found['full']:.1f} s with a full one."
    )


def main() -> None:
    imports: dict[str, list[float]] = {"jax": [], "sltjax": []}
    for _ in range(REPEATS):
        for name, times in imports.items():
            times.append(seconds(IMPORT.format(name)))
    empty, *full = first_steps()
    found = {name: statistics.median(times) for name, times in imports.items()}
    found |= {"empty": empty, "full": statistics.median(full)}
    write(FILE, json.dumps({name: round(value, 2) for name, value in found.items()}, indent=1) + "\n")
    print(section())


if __name__ == "__main__":
    main()
