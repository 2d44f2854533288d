"""From a grid to the tasks that make its results: cells, what is skipped or merged and why, and what each shares."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pipeline.baselines.canonical import canonical_system
from pipeline.baselines.samplers import SamplerSpec
from pipeline.baselines.system import SystemSpec
from pipeline.config import ConfigError, DataError, Spec, parse, union
from pipeline.diffusion.kernels import WALKS_LEVELS
from pipeline.diffusion.likelihoods import LIKELIHOODS
from pipeline.diffusion.objectives import AmortiseSpec
from pipeline.diffusion.predictor import Precondition
from pipeline.diffusion.processes import build_process
from pipeline.grid.axes import Combination, combinations, short
from pipeline.grid.cells import CellTasks, cell_tasks, pinned_source
from pipeline.grid.spec import ExperimentSpec, GridSpec
from pipeline.grid.tasks import Task
from pipeline.grid.validity import refusal
from pipeline.store import Key, Store, fingerprint
from pipeline.store.layout import QUARANTINE, key_of

SEEDLESS = ("test_split", "mean_image")
"""Control rows that have one value, whatever the seed."""


@dataclass(frozen=True)
class Cell:
    """One row of the result table.

    Attributes:
        name: short and unique within the grid.
        params: axes and settings that the row is read by: baseline, axes, sampler, steps, seed, data set.
        tasks: what makes the row.
    """

    name: str
    params: Mapping[str, Any]
    tasks: CellTasks

    @property
    def key(self) -> Key:
        """Address of the result artifact."""
        return self.tasks.result.key


@dataclass(frozen=True)
class Plan:
    """Everything that a grid asks for.

    Attributes:
        grid: the grid file.
        cells: rows of the result table, in file order.
        skipped: combinations that make no sense, each with one sentence.
        merged: combinations that are identical to a cell, with that cell's name.
        tasks: every task by the address of its artifact, inputs before their users.
    """

    grid: GridSpec
    cells: tuple[Cell, ...]
    skipped: tuple[tuple[str, str], ...]
    merged: tuple[tuple[str, str], ...]
    tasks: Mapping[Key, Task] = field(repr=False)

    @property
    def trainings(self) -> tuple[Task, ...]:
        """Trainings of the cells, each once; the feature classifiers are not among them."""
        unique = {cell.tasks.training.key: cell.tasks.training for cell in self.cells if cell.tasks.training}
        return tuple(unique.values())

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the whole request: the addresses of its results."""
        return fingerprint("grid", 1, [cell.key.fingerprint for cell in self.cells], {})

    def missing(self, store: Store) -> dict[Key, Task]:
        """The tasks that still have to run: from results and studies back, nothing behind an artifact that exists.

        What was put aside as damaged is made again in any case, so that the store is whole afterwards.
        """
        needed: set[Key] = set()
        stack = [task.key for cell in self.cells for task in (cell.tasks.result, *cell.tasks.studies)]
        stack += [key for key in _put_aside(store) if key in self.tasks]
        while stack:
            key = stack.pop()
            if key in needed or store.find(key) is not None:
                continue
            needed.add(key)
            stack.extend(self.tasks[key].inputs.values())
        return {key: task for key, task in self.tasks.items() if key in needed}


def _put_aside(store: Store) -> list[Key]:
    """Artifacts whose manifest is in quarantine."""
    names = (stat.key.removeprefix(f"{QUARANTINE}/") for stat in store.objects.scan(f"{QUARANTINE}/"))
    return [key for key in map(key_of, names) if key is not None]


def make_plan(grid: GridSpec, *, root: str | None = None, pinned: dict[str, Any] | None = None) -> Plan:
    """Expand a grid.

    Args:
        grid: the grid file.
        root: folder below which relative data locations lie; the digest of every data set is read from there.
        pinned: data sets whose digest is known; those that are read are added, so that several plans read each once.

    Raises:
        ConfigError: nothing is left to run, or a combination cannot be expanded.
        DataError: a data set is missing or differs from its digest.
    """
    skipped: list[tuple[str, str]] = []
    merged: list[tuple[str, str]] = []
    drafts: list[_Draft] = []
    by_key: dict[Key, _Draft] = {}
    pinned = {} if pinned is None else pinned
    for combination in combinations(grid.grid):
        reason = refusal(combination)
        if reason is not None:
            skipped.append((combination.label, reason))
            continue
        try:
            cell = _System.of(grid, combination, root, pinned)
        except DoesNotFit as error:
            skipped.append((combination.label, str(error)))
            continue
        for draft in _drafts(grid, combination, cell, root, pinned):
            other = by_key.get(draft.tasks.result.key)
            if other is not None:
                merged.append((draft.label, other.label))
                continue
            by_key[draft.tasks.result.key] = draft
            drafts.append(draft)
    if not drafts:
        reasons = "; ".join(dict.fromkeys(reason for _, reason in skipped))
        raise ConfigError(f"grid {grid.name}: every combination is skipped, nothing is left to run: {reasons}")
    names = _names(drafts)
    cells = tuple(Cell(name, draft.params, draft.tasks) for name, draft in zip(names, drafts, strict=True))
    named = {draft.label: name for name, draft in zip(names, drafts, strict=True)}
    tasks = {task.key: task for cell in cells for task in cell.tasks.in_order()}
    return Plan(grid, cells, tuple(skipped), tuple((label, named[kept]) for label, kept in merged), tasks)


@dataclass(frozen=True)
class _Draft:
    combination: Combination
    sampler: SamplerSpec | None
    seed: int
    params: Mapping[str, Any]
    tasks: CellTasks

    @property
    def label(self) -> str:
        parts = [self.combination.label]
        if self.sampler is not None:
            parts.append(f"sampler={sampler_name(self.sampler)}")
        return " ".join([*parts, f"seed={self.seed}"])


class DoesNotFit(ConfigError):
    """A combination that cannot be built on its data set: skipped with this sentence."""


@dataclass(frozen=True)
class _System:
    """What a combination trains, checked against its data set, and how it is sampled and scored."""

    experiment: ExperimentSpec
    spec: SystemSpec | None
    samplers: tuple[SamplerSpec | None, ...]
    likelihood: Any

    @classmethod
    def of(cls, grid: GridSpec, combination: Combination, root: str | None, pinned: dict[str, Any]) -> "_System":
        """Expand a combination.

        Raises:
            ConfigError: its values are wrong. DoesNotFit: they do not fit the data set.
        """
        baseline, where = combination.baseline, f"grid.{combination.block}"
        experiment = _experiment(grid.experiment, combination.overrides, where)
        if baseline.system is None:
            return cls(experiment, None, (None,), None)
        tree = baseline.system(combination.axes)
        tree |= {"network": experiment.network, "class_conditional": experiment.class_conditional}
        spec = canonical_system(parse(SystemSpec, tree, where))
        num_levels = _num_levels(spec, pinned_source(experiment.dataset, root, pinned))
        samplers = grid.evaluate.samplers.get(baseline.name)
        if not samplers:
            defaults = baseline.default_samplers(combination.axes)
            samplers = tuple(parse(SamplerSpec, dict(entry), "sampler") for entry in defaults)
        likelihood = grid.evaluate.likelihood
        if baseline.likelihood is not None:
            likelihood = parse(union(LIKELIHOODS), dict(baseline.likelihood(combination.axes)), "likelihood")
        return cls(experiment, spec, tuple(sampler.over(num_levels) for sampler in samplers), likelihood)


def _num_levels(spec: SystemSpec, source: Any) -> int | None:
    """Levels of the system's process; builds it for the data set's shape where it is a degradation.

    Raises:
        DoesNotFit: the process, or what is predicted, cannot be built for this shape.
    """
    process = spec.process
    assert process is not None
    if getattr(getattr(process, "schedule", None), "is_degradation", process.kind != "spectral"):
        try:
            shape = source.opened().shape
        except DataError:
            return int(getattr(process, "num_levels", 0) or process.schedule.num_levels)  # told when it is read
        try:
            return Precondition(build_process(process, shape), spec.prediction).process.num_levels
        except ConfigError as error:
            raise DoesNotFit(str(error)) from error
    return getattr(process.schedule, "num_levels", None)


def _drafts(
    grid: GridSpec, combination: Combination, system: _System, root: str | None, pinned: dict[str, Any]
) -> Iterable[_Draft]:
    baseline, experiment = combination.baseline, system.experiment
    evaluate = grid.evaluate
    if system.likelihood is not None:
        evaluate = evaluate.model_copy(update={"likelihood": system.likelihood})
    for sampler in system.samplers:
        for seed in grid.seeds if baseline.control not in SEEDLESS else grid.seeds[:1]:
            tasks = cell_tasks(
                evaluate,
                experiment,
                system.spec or baseline.control,
                sampler=sampler,
                seed=seed,
                root=root,
                pinned=pinned,
            )
            yield _Draft(combination, sampler, seed, _params(combination, experiment, sampler, seed), tasks)


def _experiment(experiment: ExperimentSpec, overrides: Mapping[str, Any], where: str) -> ExperimentSpec:
    if not overrides:
        return experiment
    tree: dict[str, Any] = experiment.model_dump(mode="json")
    for path, value in overrides.items():
        *parents, last = path.split(".")
        target = tree
        for part in parents:
            if not isinstance(target.get(part), dict):
                raise ConfigError(f"{where}.{path}: there is no {part} to change in experiment")
            target = target[part]
        target[last] = value.model_dump(mode="json") if isinstance(value, Spec) else value
    return parse(ExperimentSpec, tree, where)


def sampler_name(sampler: SamplerSpec) -> str:
    """`ddim50`, `ancestral250-large`: kind, steps, and what differs from the kind's defaults."""
    kernel = sampler.kernel
    defaults = type(kernel)()
    changed = [
        short(getattr(kernel, name))
        for name in type(kernel).model_fields
        if name != "kind" and getattr(kernel, name) != getattr(defaults, name)
    ]
    usual_final = "state" if kernel.kind in WALKS_LEVELS else "denoise"
    settings = ((sampler.spacing, "uniform"), (sampler.final, usual_final), (sampler.latents, "image"))
    extra = [f"code-per-{value}" if value == "step" else value for value, usual in settings if value != usual]
    length = sampler.steps if sampler.log_snr_step is None else f"-step{short(sampler.log_snr_step)}"
    return "-".join([f"{kernel.kind}{length}", *changed, *extra])


def _params(
    combination: Combination, experiment: ExperimentSpec, sampler: SamplerSpec | None, seed: int
) -> dict[str, Any]:
    params: dict[str, Any] = {"baseline": combination.baseline.name}
    params |= {
        name: _shown(value)
        for name, value in combination.axes.items()
        if name not in combination.idle and value is not None and (name, value) != ("extrapolate", False)
    }
    params |= _family_params(combination)
    if sampler is not None:
        params |= {"sampler": sampler.kernel.kind}
        params |= {"steps": sampler.steps} if sampler.log_snr_step is None else {"log_snr_step": sampler.log_snr_step}
        if "latent_dim" in combination.axes:
            params["latents"] = sampler.latents
    if combination.baseline.control is None:
        params |= {name.replace("experiment.", ""): _shown(value) for name, value in combination.overrides.items()}
    return {**params, "dataset": experiment.dataset.name, "seed": seed}


def _shown(value: Any) -> Any:
    """A value as a parameter: numbers stay numbers."""
    return value if isinstance(value, int | float) else short(value)


def _family_params(combination: Combination) -> dict[str, Any]:
    """Of a softness: 1/a, and whether the network was trained for this schedule alone or for a box of them."""
    axes = combination.axes
    if "softness_a" not in axes or "softness_a" in combination.idle:
        return {}
    softness = {} if axes["softness_a"] == 0 else {"softness": 1.0 / axes["softness_a"]}
    if axes["amortise"] is None:
        return {**softness, "training": "per_cell"}
    return {**softness, "training": "amortised", "amortise": str(parse(AmortiseSpec, axes["amortise"], "amortise"))}


def _stated(name: str, value: Any, *, several_boxes: bool) -> str:
    """One axis in a row's name; the box of an amortised training where there are several."""
    if name == "amortise" and value is not None:
        return f"amortised({parse(AmortiseSpec, value, name)})" if several_boxes else "amortised"
    return f"{_PREFIXED.get(name, '')}{short(value)}"


_PREFIXED = {
    "softness_a": "a=",
    "ordering_r": "r=",
    "overlap_b": "b=",
    "steps": "steps=",
    "train.lr": "lr=",
    "num_levels": "T=",
    "noise": "noise=",
    "start_noise": "start=",
    "delta": "delta=",
    "jitter": "jitter=",
    "latent_dim": "z=",
    "beta": "beta=",
    "kl_annealing": "kl=",
    "stride": "stride=",
}


def _names(drafts: list[_Draft]) -> list[str]:
    """Readable unique names: the baseline, what its blocks state, then sampler and seed where they vary."""
    several_seeds = len({draft.seed for draft in drafts}) > 1
    samplers: dict[str, set[str]] = {}
    boxes = {str(draft.combination.given.get("amortise")) for draft in drafts} - {"None"}
    for draft in drafts:
        name = sampler_name(draft.sampler) if draft.sampler else ""
        samplers.setdefault(draft.combination.baseline.name, set()).add(name)
    names: list[str] = []
    for draft in drafts:
        combination = draft.combination
        stated = {**combination.given, **combination.overrides}
        parts = [combination.baseline.name]
        parts += [_stated(name, value, several_boxes=len(boxes) > 1) for name, value in stated.items()]
        if draft.sampler and len(samplers[combination.baseline.name]) > 1:
            parts.append(sampler_name(draft.sampler))
        if several_seeds:
            parts.append(f"seed{draft.seed}")
        names.append("/".join(parts))
    repeated = {name for name in names if names.count(name) > 1}
    numbers: dict[str, int] = {}
    for index, name in enumerate(names):
        if name in repeated:
            numbers[name] = numbers.get(name, 0) + 1
            names[index] = f"{name}#{numbers[name]}"
    return names
