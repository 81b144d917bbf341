"""Packages that take long to import, imported when they are first needed."""

from importlib import import_module
from types import ModuleType

import jax


def late(name: str) -> ModuleType:
    """The module of that name; arrays that it makes while it is imported are no tracers of a caller that jax traces.

    `import sltjax` so neither waits for it nor starts a backend, which a training loop may still have to choose.
    """
    with jax.ensure_compile_time_eval():
        return import_module(name)
