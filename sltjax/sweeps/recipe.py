"""The recipe: a sweep as one TOML file, checked before anything is spent."""

import difflib
import importlib
import os
import sys
import tomllib
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import jax
import xarray as xr
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from sltjax import samplers
from sltjax.calibration import Calibration
from sltjax.checkpoints import Source
from sltjax.columns import DIAGNOSTICS, PARTS, spread
from sltjax.observables import Losses, part_losses
from sltjax.parts import Part, part
from sltjax.results import parts_of
from sltjax.store import Shard
from sltjax.sweeps.engines import Ray, local
from sltjax.sweeps.formats import FORMATS, recognise
from sltjax.sweeps.plan import Plan, plan
from sltjax.sweeps.run import Engine, calibrate_sweep, sweep
from sltjax.sweeps.setup import first_sound
from sltjax.types import Batch
from sltjax.validation import count_examples


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


def _diagnostics_or_paths(observables: Any) -> Any:
    if not isinstance(observables, dict | list):
        raise ValueError("expected a list of diagnostics and import paths, or a table of names and import paths")
    for each in observables if isinstance(observables, list) else ():
        if not isinstance(each, str) or (":" not in each and each not in DIAGNOSTICS):
            near = difflib.get_close_matches(str(each), DIAGNOSTICS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected some of {', '.join(DIAGNOSTICS)}"
            raise ValueError(f'{each!r} is neither a diagnostic nor an import path "module:name"; {hint}')
    return observables


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
        observables: diagnostics by their names (`sltjax.columns`), such as "wbic", "influence" or "hessian", and paths
            of (params, info) -> array, recorded at every draw of the whole; or name -> path of such functions.
        nbeta: nβ; n / log n if absent.
        gamma: γ.
    """

    loss: ImportPath
    data: ImportPath
    params: ImportPath | None = None
    metrics: dict[str, ImportPath] = {}
    observables: Annotated[dict[str, ImportPath] | list[str], BeforeValidator(_diagnostics_or_paths)] = {}
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


class SamplerTable(_Table):
    """A sampler by its name, with its hyperparameters: `[sampling.sampler]`.

    `noise` is "gaussian" or "rademacher"; `preconditioner` a table of the same form, such as
    { name = "rmsprop" }.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str

    def build(self) -> Any:
        """The sampler, or the preconditioner.

        Raises:
            RecipeError: there is none of that name, or it takes no such argument.
        """
        known = {name: getattr(samplers, name) for name in samplers.__all__}
        if self.name not in known:
            near = difflib.get_close_matches(self.name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(sorted(known))}"
            raise RecipeError(f"sampling.sampler: there is no {self.name!r}; {hint}")
        try:
            return known[self.name](**{name: self._argument(value) for name, value in (self.model_extra or {}).items()})
        except TypeError as error:
            raise RecipeError(f"sampling.sampler: {self.name} cannot be made of that: {error}") from None

    def _argument(self, value: Any) -> Any:
        if isinstance(value, dict):
            return SamplerTable(**value).build()
        return getattr(samplers, value) if value in ("gaussian", "rademacher") else value


class Sampling(_Table):
    """Numerics: `[sampling]`. What is absent is calibrated, or the default of `sltjax.sweep`.

    Attributes:
        num_chains: chains a checkpoint.
        num_draws: recorded draws a chain.
        burn_in: steps before the first draw.
        thin: steps a draw.
        batch_size: examples a step.
        error: the share of λ̂ to which the standard error is to come.
        max_chain_steps: steps times chains that a checkpoint may take.
        block_size: checkpoints sampled at once.
        sampler: by name; absent for the one that calibration chooses.
        seed: of everything random.
    """

    num_chains: int = Field(default=4, ge=2)
    num_draws: int | None = Field(default=None, ge=4)
    burn_in: int | None = Field(default=None, ge=0)
    thin: int | None = Field(default=None, ge=1)
    batch_size: int | None = Field(default=None, ge=1)
    error: float = Field(default=0.02, gt=0)
    max_chain_steps: int | None = Field(default=None, ge=1)
    block_size: int | None = Field(default=None, ge=1)
    sampler: SamplerTable | None = None
    seed: int = 0


class Devices(_Table):
    """How the devices are spread: `[devices]`. Without it all are along "checkpoint".

    Attributes:
        checkpoint: devices along it.
        chain: devices along it.
        model: devices that share one model.
        partition: path of a pytree of PartitionSpecs that name "model", or of a function that returns one.
    """

    checkpoint: int = Field(default=1, ge=1)
    chain: int = Field(default=1, ge=1)
    model: int = Field(default=1, ge=1)
    partition: ImportPath | None = None


class PartTable(_Table):
    """A coefficient of a part, beside that of the whole: `[parts.<name>]`, sampled into `parts/<name>` of the store.

    Attributes:
        weights: which weights chains move, as `sltjax.part` takes it: a pattern for whole paths, a list of them, or a
            table of patterns and indices; absent for all.
        data: path of other data, or of a function that returns it; absent for that of the problem.
    """

    weights: str | list[str] | dict[str, str] | None = None
    data: ImportPath | None = None

    @model_validator(mode="after")
    def _is_a_part(self) -> "PartTable":
        if self.weights is None and self.data is None:
            raise ValueError("expected weights, data, or both")
        if self.weights is not None:
            part(self.weights)
        return self


class EngineTable(_Table):
    """Where blocks are sampled: `[engine]`. The rest is what `sltjax.sweeps.Ray` takes.

    Attributes:
        name: "local", which is this process, or "ray".
    """

    name: Literal["local", "ray"] = "local"
    address: str | None = None
    num_cpus: float = Field(default=1, ge=0)
    num_gpus: float = Field(default=0, ge=0)
    resources: dict[str, float] = {}
    retries: int = Field(default=3, ge=0)
    in_flight: int | None = Field(default=None, ge=1)

    def build(self, folder: Path) -> Engine:
        """The engine; on a cluster, modules are looked for in the recipe's folder too."""
        if self.name == "local":
            return local
        path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
        return Ray(**self.model_dump(exclude={"name"}), environment={"PYTHONPATH": path})


class Recipe(_Table):
    """A sweep.

    Attributes:
        title: for plots and the report.
        store: the folder of the results, relative to the recipe.
        problem: what is estimated.
        checkpoints: where from.
        sampling: with which numerics.
        devices: on which devices.
        engine: on which machines.
        parts: name -> a part of the weights or of the data, with a coefficient of its own at every checkpoint.
        folder: where the recipe lies; not a key of the file.
    """

    title: str = ""
    store: str = "results"
    problem: Problem
    checkpoints: Checkpoints
    sampling: Sampling = Sampling()
    devices: Devices | None = None
    engine: EngineTable = EngineTable()
    parts: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")], PartTable] = {}
    folder: Path

    @property
    def store_path(self) -> Path:
        """The folder of the results."""
        return self.folder / self.store

    def store_of(self, problem: str | None) -> Path:
        """The folder of the results of one of `problems`."""
        return self.store_path if problem is None else parts_of(self.store_path) / problem

    @property
    def problems(self) -> tuple[str | None, ...]:
        """What there is to sample: None, which is the whole, and each part by its name."""
        return (None, *self.parts)

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

    @cached_property
    def _listed(self) -> Source:
        """The checkpoints, listed once: the whole and its parts have the same."""
        return self.source()

    @cached_property
    def _selections(self) -> dict[str | None, Part]:
        """What selects the weights of the parts that name some; all are tried before the first thing is sampled.

        Raises:
            RecipeError: one does not fit the parameters.
        """
        selections: dict[str | None, Part] = {
            name: part(table.weights) for name, table in self.parts.items() if table.weights is not None
        }
        first = first_sound(self._listed) if selections else None
        for name, select in selections.items():
            try:
                select(first)
            except ValueError as error:
                raise RecipeError(f"parts.{name}.weights: {error}") from None
        return selections

    @cached_property
    def _data(self) -> Batch:
        """The data of the problem, read once for the whole and its parts."""
        return self._resolve(self.problem.data)

    def source(self) -> Source:
        """The checkpoints, as they are listed now.

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

    def plan(self, problem: str | None = None) -> Plan:
        """See what the sweep of one of `problems` will take; raises as `run` does."""
        return plan(**self._arguments(problem))

    def calibrate(self, problem: str | None = None) -> Calibration:
        """Choose the numerics and begin the store with them; raises as `run` does."""
        return calibrate_sweep(**self._arguments(problem))

    def run(self, problem: str | None = None, *, progress: bool = False, shard: Shard | None = None) -> xr.Dataset:
        """Run or resume a sweep; raises as `sltjax.sweep` does, and RecipeError for paths that lead nowhere."""
        engine = self.engine.build(self.folder)
        return sweep(**self._arguments(problem), engine=engine, progress=progress, shard=shard)

    def _arguments(self, problem: str | None) -> dict[str, Any]:
        other_data = self.parts[problem].data if problem is not None else None
        sampling = self.sampling.model_dump(exclude={"seed", "sampler"})
        sampler = self.sampling.sampler
        return {
            "key": jax.random.key(self.sampling.seed),
            "loss": self._import(self.problem.loss),
            "checkpoints": self._listed,
            "data": self._resolve(other_data) if other_data else self._data,
            "store": self.store_of(problem),
            "select": self._selections.get(problem),
            "nbeta": self.problem.nbeta,
            "gamma": self.problem.gamma,
            "metrics": {name: self._import(path) for name, path in self.problem.metrics.items()},
            **self._measured(problem),
            "sampler": sampler.build() if sampler else None,
            "devices": self.devices.model_dump(exclude={"partition"}) if self.devices else None,
            "partition": self._resolve(self.devices.partition) if self.devices else None,
            "title": ": ".join(filter(None, [self.title, problem])),
            **sampling,
        }

    @property
    def _components(self) -> dict[str, Part]:
        """The parts of the weights, by name."""
        return {name: select for name, select in self._selections.items() if name is not None}

    def _measured(self, problem: str | None) -> dict[str, Any]:
        """The observables and diagnostics.

        Of a part of the weights only those that know what to make of one: not functions of all parameters, nor how
        parts act on one another.
        """
        given = self.problem.observables
        named = given if isinstance(given, dict) else {path.partition(":")[2]: path for path in given if ":" in path}
        observables = {name: self._import(path) for name, path in named.items()}
        if problem in self._components:
            observables = {name: each for name, each in observables.items() if isinstance(each, Losses)}
        if isinstance(given, dict):
            return {"observables": observables}
        diagnostics = [each for each in given if ":" not in each]
        if "interactions" in diagnostics:
            if problem in self._components:
                diagnostics.remove("interactions")
            elif len(self._components) < 2:
                raise RecipeError("problem.observables: interactions are between parts; name two [parts] with weights")
            else:
                loss, examples = self._import(self.problem.loss), spread(count_examples(self._data))
                some = jax.tree.map(lambda x: x[examples], self._data)
                observables[PARTS] = part_losses(loss, self._components, some)
        return {"observables": observables, "diagnostics": diagnostics}

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
        content = tomllib.loads(path.read_text(encoding="utf-8"))
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
    ("devices",): Devices,
    ("engine",): EngineTable,
}


def _explain(problem: Any) -> str:
    *table, key = problem["loc"]
    name = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        where = PartTable if table[:1] == ["parts"] else TABLES.get(tuple(table), Recipe)
        known = sorted(set(where.model_fields) - {"folder"})
        near = difflib.get_close_matches(str(key), known, n=1)
        return f"{name}: unknown key; " + (
            f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}"
        )
    if problem["type"] == "missing":
        return f"{name}: missing"
    return f"{name}: {problem['msg']}, got {problem['input']!r}"
