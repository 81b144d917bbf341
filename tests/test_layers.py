"""Modules import only from those to their left, and the package itself stays light."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "sltjax"
LAYERS = [
    {"types", "late"},
    {"fusion", "entrywise"},
    {"precision"},
    {"losses", "models", "parts", "schedule", "devices", "threefry"},
    {"posterior"},
    {"observables", "samplers", "truth", "checkpoints", "validation"},
    {"sampling"},
    {"convergence"},
    {"moments"},
    {"diagnostics"},
    {"estimators"},
    {"curvature"},
    {"heat"},
    {"rules"},
    {"calibration"},
    {"estimate", "traced"},
    {"definition"},
    {"evidence", "selection"},
    {"fingerprint", "store", "columns"},
    {"results"},
    {"development"},
    {"plots"},
    {"sweeps"},
    {"monitoring"},
    {"report"},
    {"demo"},
    {"cli"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent != PACKAGE or not path.stem.startswith("__")]


def layer(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sltjax":
            parts = node.module.split(".")[1:]
            yield from parts[:1] or [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("sltjax."))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_import_only_from_their_left(path):
    here = layer(path)
    for name in imported(ast.parse(path.read_text())):
        assert name == here or RANK[name] < RANK[here], f"{here} imports {name}"


def test_importing_the_package_brings_no_storage_tables_or_plots():
    heavy = [
        "blackjax",
        "matplotlib",
        "jinja2",
        "typer",
        "h5netcdf",
        "h5py",
        "sklearn",
        "ruptures",
        "pandas",
        "xarray",
        "orbax",
        "tensorstore",
        "safetensors",
        "fsspec",
        "ray",
        "pydantic",
        "matfree",
    ]
    code = f"import sys, sltjax; print([m for m in {heavy} if m in sys.modules])"
    assert printed(code) == "[]"


def test_importing_the_package_starts_no_backend():
    code = "import jax, sltjax; jax.config.update('jax_num_cpu_devices', 3); print(jax.device_count())"
    assert printed(code) == "3"


def test_what_is_imported_within_a_trace_leaves_no_tracer_behind():
    code = """
import jax, sltjax
from sltjax.moments import mean
jax.jit(mean)(jax.random.normal(jax.random.key(0), (2, 50)))
import blackjax
print(blackjax.nuts is not None, float(mean(jax.random.normal(jax.random.key(0), (2, 60))).ess) > 0)
"""
    assert printed(code) == "True True"


def printed(code):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return done.stdout.strip()
