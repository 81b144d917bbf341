"""The recipe: a sweep as one TOML file, checked before anything is spent."""

import difflib
import importlib
import sys
import tomllib
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import jax
import xarray as xr
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from sltjax.checkpoints import Source
from sltjax.sweeps.formats import FORMATS, recognise
from sltjax.sweeps.run import sweep


class RecipeError(Exception):
    """The recipe cannot be followed; the message names the key, what was got and what was expected."""


def _import_path(path: str) -> str:
    if path.count(":") != 1:
        raise ValueError(f'expected an import path "module:name", got "{path}"')
    return path


def _patterns_or_path(rename: Any) -> Any:
    if isinstance(rename, str):
        return _import_path(rename)
    if not isinstance(rename, dict) or not all(isinstance(new, str) for new in rename.values()):
        raise ValueError('expected a table of patterns and what replaces them, or an import path "module:name"')
    return rename


ImportPath: TypeAlias = Annotated[str, AfterValidator(_import_path)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Problem(_Table):
    """What is estimated: `[problem]`. Import paths are "module:name", with the recipe's folder searched first.

    Attributes:
        loss: path of (params, batch) -> losses [batch], or of a `behavioral_loss`.
        data: path of a pytree of arrays [n, ...], or of a function that returns one.
        params: path of parameters like those saved (or of a function that returns them), to check leaf by
            leaf and to rebuild Flax NNX states; without it checkpoints become nested dicts.
        metrics: name -> path of (params, data) -> array; "loss" is drawn as the training loss.
        nbeta: nβ; n / log n if absent.
        gamma: γ.
    """

    loss: ImportPath
    data: ImportPath
    params: ImportPath | None = None
    metrics: dict[str, ImportPath] = {}
    nbeta: float | None = Field(default=None, gt=0)
    gamma: float = Field(default=1.0, ge=0)


class Checkpoints(_Table):
    """Where the training run is: `[checkpoints]`.

    Attributes:
        path: the folder, relative to the recipe, or in a bucket (`gs://`, `s3://`).
        format: "orbax", "safetensors" or "npz"; if absent, what the names in the folder show.
        select: in Orbax checkpoints, the path of the parameters; "" if they are all of it, "params" if absent.
        rename: in files, a table of regular expressions and what replaces the names that they match, "" to leave a
            tensor out; or the import path of a function of the name.
        transform: in files, the import path of (name, array) -> array.
    """

    path: str
    format: Literal["orbax", "safetensors", "npz"] | None = None
    select: str | None = None
    rename: Annotated[dict[str, str] | str | None, BeforeValidator(_patterns_or_path)] = None
    transform: ImportPath | None = None


class Sampling(_Table):
    """Numerics: `[sampling]`. What is absent is calibrated, or the default of `sltjax.calibrate`."""

    num_chains: int = Field(default=4, ge=2)
    num_draws: int | None = Field(default=None, ge=4)
    burn_in: int | None = Field(default=None, ge=0)
    thin: int | None = Field(default=None, ge=1)
    batch_size: int | None = Field(default=None, ge=1)
    block_size: int | None = Field(default=None, ge=1)
    seed: int = 0


class Recipe(_Table):
    """A sweep.

    Attributes:
        title: for plots and the report.
        store: the folder of the results, relative to the recipe.
        problem: what is estimated.
        checkpoints: where from.
        sampling: with which numerics.
        folder: where the recipe lies; not a key of the file.
    """

    title: str = ""
    store: str = "results"
    problem: Problem
    checkpoints: Checkpoints
    sampling: Sampling = Sampling()
    folder: Path

    @property
    def store_path(self) -> Path:
        """The folder of the results."""
        return self.folder / self.store

    @property
    def checkpoints_path(self) -> str | Path:
        """Where the checkpoints lie."""
        path = self.checkpoints.path
        return path if "://" in path else self.folder / path

    @cached_property
    def checkpoints_format(self) -> str:
        """The format of the checkpoints: as the recipe says, or as it is recognised.

        Raises:
            RecipeError, FileNotFoundError: there are several, or nothing.
        """
        try:
            return self.checkpoints.format or recognise(self.checkpoints_path)
        except ValueError as error:
            raise RecipeError(f"checkpoints.format: {error}") from error

    def source(self) -> Source:
        """The checkpoints.

        Raises:
            RecipeError, FileNotFoundError, ValueError: there are none to be had.
        """
        name = self.checkpoints_format
        given = self.checkpoints.model_dump(include={"select", "rename", "transform"}, exclude_none=True)
        theirs = ("select",) if name == "orbax" else ("rename", "transform")
        if strange := [key for key in given if key not in theirs]:
            raise RecipeError(
                f"checkpoints.{strange[0]}: is not for {name} checkpoints, which take {' and '.join(theirs)}"
            )
        for key in given.keys() - {"select"}:
            given[key] = self._import(given[key]) if isinstance(given[key], str) else given[key]
        return FORMATS[name](self.checkpoints_path, **given, like=self._resolve(self.problem.params))

    def run(self, progress: bool = False) -> xr.Dataset:
        """Run or resume the sweep; raises as `sltjax.sweep` does, and RecipeError for paths that lead nowhere."""
        sampling = self.sampling.model_dump(exclude={"seed"})
        return sweep(
            jax.random.key(self.sampling.seed),
            self._import(self.problem.loss),
            self.source(),
            self._resolve(self.problem.data),
            store=self.store_path,
            nbeta=self.problem.nbeta,
            gamma=self.problem.gamma,
            metrics={name: self._import(path) for name, path in self.problem.metrics.items()},
            title=self.title,
            progress=progress,
            **sampling,
        )

    def _resolve(self, path: str | None) -> Any:
        """What the path leads to; if that is a function, what it returns."""
        if path is None:
            return None
        found = self._import(path)
        return found() if isinstance(found, Callable) else found  # type: ignore[arg-type]

    def _import(self, path: str) -> Any:
        module, _, name = path.partition(":")
        if str(self.folder) not in sys.path:
            sys.path.insert(0, str(self.folder))
        try:
            return getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            raise RecipeError(f'"{path}": {error}; modules are searched in {self.folder} first') from error
        except AttributeError as error:
            raise RecipeError(f'"{path}": {error}') from error


def read_recipe(path: str | Path) -> Recipe:
    """Read and check a recipe.

    Raises:
        RecipeError: no such file, no TOML, or keys and values that are not a recipe's; unknown keys come with
            the nearest known one.
    """
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise RecipeError(f"there is no recipe {path}") from None
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path} is not TOML: {error}") from None
    try:
        return Recipe(**{**content, "folder": path.resolve().parent})
    except ValidationError as error:
        lines = [_explain(problem) for problem in error.errors()]
        raise RecipeError(f"{path} is not a recipe:\n  " + "\n  ".join(lines)) from None


TABLES: dict[tuple[str, ...], type[BaseModel]] = {
    (): Recipe,
    ("problem",): Problem,
    ("checkpoints",): Checkpoints,
    ("sampling",): Sampling,
}


def _explain(problem: Any) -> str:
    *table, key = problem["loc"]
    name = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        known = sorted(set(TABLES.get(tuple(table), Recipe).model_fields) - {"folder"})
        near = difflib.get_close_matches(str(key), known, n=1)
        return f"{name}: unknown key; " + (
            f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}"
        )
    if problem["type"] == "missing":
        return f"{name}: missing"
    return f"{name}: {problem['msg']}, got {problem['input']!r}"
