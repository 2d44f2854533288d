"""Tables of the documentation, rendered from the family tables and the validity rules.

A page marks the place of a table by `<!-- begin NAME -->` and `<!-- end NAME -->`. `make docs` fills all of them.
"""

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import torch
import yaml
from pydantic.fields import FieldInfo

from pipeline.baselines import BASELINES, Baseline
from pipeline.baselines.samplers import SamplerSpec
from pipeline.config import Spec
from pipeline.diffusion.bases import BASES, build_basis
from pipeline.diffusion.kernels import KERNELS
from pipeline.diffusion.likelihoods import LIKELIHOODS
from pipeline.diffusion.objectives import OBJECTIVES, AmortiseSpec
from pipeline.diffusion.predictions import TARGETS
from pipeline.diffusion.processes import PROCESSES, TERMINALS
from pipeline.diffusion.processes.degradations import DEGRADATIONS
from pipeline.diffusion.processes.operators import OPERATORS
from pipeline.diffusion.schedules import SCHEDULES
from pipeline.diffusion.schedules.gud import Ordering
from pipeline.diffusion.statistics import Statistics
from pipeline.grid.axes import EXPERIMENT_AXES, Combination
from pipeline.grid.meanings import MEANINGS
from pipeline.grid.spec import (
    DATASETS,
    EvaluateSpec,
    ExperimentSpec,
    FeatureNetSpec,
    GridSpec,
    SearchSpec,
    StudyRequest,
    TuneSpec,
)
from pipeline.grid.validity import RULES, refusal
from pipeline.ingest.images import ImageFormat
from pipeline.ingest.sources import SOURCES, SourceSpec
from pipeline.networks import NETWORKS, mlp, unet
from pipeline.train.spec import AverageSpec, TrainSpec

MARKED = re.compile(r"(<!-- begin (\w+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)
_COMMENT = re.compile(r"^    (\w+):.*?  # (.+)$", re.MULTILINE)
_ATTRIBUTE = re.compile(r"^    (\w+): (.+(?:\n        .+)*)", re.MULTILINE)
_BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
_WORDS: dict[Any, str] = {int: "integer", float: "number", str: "text", bool: "true, false", NoneType: "null"}

EXAMPLES: tuple[dict[str, Any], ...] = (
    {"softness_a": 0.5},
    {"degradation": "blur"},
    *({"schedule": schedule} for schedule in SCHEDULES),
    *({"ordering": ordering} for ordering in get_args(Ordering)),
    {"ordering": "rank", "ordering_r": 0.5},
    {"schedule": "columns", "softness_a": 0.5},
    {"degradation": "black", "start_noise": 0.0},
    {"degradation": "noise", "schedule": "linear", "num_levels": 20},
    {"rollout": True, "jitter": 0.01},
    {"schedule": "vp", "softness_a": 0.5},
)
"""Axis values that are tried with every baseline and basis; each rule of `RULES` refuses at least one."""


def table(headings: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown pipe table; bars inside cells are escaped."""
    names = list(headings)
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", r"\|") for cell in line) + " |" for line in lines)


def sentence(thing: object) -> str:
    """The first paragraph of a docstring on one line."""
    return " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())


def fields(spec: type[Spec], *, without: Iterable[str] = ("kind",)) -> str:
    """Keys of a specification with type, default and meaning, in the order of the class; empty if there are none."""
    hidden = set(without)
    meanings = _meanings(spec)
    rows = [
        (f"`{name}`", _type(info), _default(info), _meaning(meanings.get(name, ""), info))
        for name, info in spec.model_fields.items()
        if name not in hidden
    ]
    return table(("key", "type", "default", "meaning"), rows) if rows else ""


def family(members: Mapping[str, type[Spec]], *, without: Iterable[str] = ("kind",)) -> str:
    """Every kind of a family: its docstring and its keys."""
    parts: list[str] = []
    for kind, spec in members.items():
        parts.append(f"### `{kind}`\n\n{sentence(spec)}")
        parts += [keys] if (keys := fields(spec, without=without)) else []
    return "\n\n".join(parts)


def _meanings(spec: type[Spec]) -> dict[str, str]:
    """What the source says about each field: the comment beside it, else the docstring's `Attributes`."""
    found: dict[str, str] = {}
    for parent in reversed(spec.__mro__):
        if issubclass(parent, Spec) and parent is not Spec:
            attributes = (inspect.getdoc(parent) or "").partition("Attributes:\n")[2]
            found |= {name: " ".join(text.split()) for name, text in _ATTRIBUTE.findall(attributes)}
            found |= dict(_COMMENT.findall(inspect.getsource(parent)))
    for name in spec.model_fields:
        for known in (f"{spec.__name__}.{name}", name):
            if known in MEANINGS:
                found.setdefault(name, MEANINGS[known])
    return found


def _meaning(text: str, info: FieldInfo) -> str:
    extra = info.json_schema_extra
    is_runtime = isinstance(extra, dict) and bool(extra.get("runtime"))
    return "; ".join(part for part in (text.rstrip("."), "*runtime*" if is_runtime else "") if part)


def _type(info: FieldInfo) -> str:
    text = _type_text(info.annotation)
    is_optional = text.endswith(", null")
    return text.removesuffix(", null") + _bounds(info.metadata) + (", null" if is_optional else "")


def _bounds(metadata: Iterable[Any]) -> str:
    parts = [
        f"{sign} {_flow(getattr(item, name))}"
        for item in metadata
        for name, sign in _BOUNDS.items()
        if getattr(item, name, None) is not None
    ]
    return f" {', '.join(parts)}" if parts else ""


def _type_text(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        metadata = [part for item in arguments[1:] for part in getattr(item, "metadata", [item])]
        return _type_text(arguments[0]) + _bounds(metadata)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, UnionType):
        return ", ".join(dict.fromkeys(_type_text(argument) for argument in arguments))
    if origin is tuple:
        kinds = dict.fromkeys(_type_text(argument) for argument in arguments if argument is not Ellipsis)
        return f"list of {' and '.join(kinds)}"
    if origin is dict:
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        kind = annotation.model_fields.get("kind")
        return "mapping" if kind is None else f"`{kind.default}`"
    return _WORDS.get(annotation, "any")


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    return f"`{_flow(info.get_default(call_default_factory=True))}`"


def _flow(value: Any) -> str:
    """A value as one line of YAML; a specification by its kind and what differs from its own defaults."""
    if isinstance(value, Spec):
        changed = value.model_dump(mode="json", exclude_defaults=True)
        kind = {"kind": getattr(value, "kind", None)} if "kind" in type(value).model_fields else {}
        value = {**kind, **changed}
    if isinstance(value, tuple):
        value = [item.model_dump(mode="json") if isinstance(item, Spec) else item for item in value]
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")


def methods() -> str:
    """Baselines, each with its source and its axes."""
    rows = [(f"`{b.name}`", b.summary, " ".join(f"`{axis}`" for axis in b.axes) or "none") for b in BASELINES.values()]
    return table(("baseline", "what it is", "axes"), rows)


def families() -> str:
    """One line per family: what a grid file can name."""
    tables: dict[str, Iterable[str]] = {
        "schedules": SCHEDULES,
        "bases": BASES,
        "samplers": KERNELS,
        "objectives": OBJECTIVES,
        "likelihoods": LIKELIHOODS,
        "networks": NETWORKS,
        "data": SOURCES,
    }
    return table(
        ("family", "kinds"), ((name, " ".join(f"`{kind}`" for kind in kinds)) for name, kinds in tables.items())
    )


def axes() -> str:
    """Axis by baseline: the default value where the baseline has the axis."""
    names = dict.fromkeys(axis for baseline in BASELINES.values() for axis in baseline.axes)
    rows = [
        (f"`{axis}`", *(f"`{_flow(b.axes[axis])}`" if axis in b.axes else "" for b in BASELINES.values()))
        for axis in names
    ]
    samplers = [
        ", ".join(f"`{_flow(dict(entry))}`" for entry in b.default_samplers(b.axes)) for b in BASELINES.values()
    ]
    return table(("axis", *BASELINES), [*rows, ("samplers", *samplers)])


def validity() -> str:
    """Which schedules and orderings go with which basis, as the rules decide."""
    gud, ddpm = BASELINES["gud"], BASELINES["ddpm"]
    columns = [(ddpm, None), *((gud, basis) for basis in BASES)]
    headings = ("", "ddpm", *(f"gud, {basis}" for basis in BASES))
    schedules = [(f"schedule `{kind}`", *_marks(columns, {"schedule": kind})) for kind in SCHEDULES]
    orderings = [(f"ordering `{name}`", *_marks(columns, {"ordering": name})) for name in get_args(Ordering)]
    return table(headings, [*schedules, *orderings])


def degradations() -> str:
    """Degradations by name: what they do, where they end, and their options with the defaults."""
    rows = [
        (
            f"`{entry.name}`",
            entry.summary,
            {"gaussian": "noise", "flat": "one colour", "zero": "the centre", "images": "an image"}[entry.terminal],
            " ".join(f"`{name}: {_flow(value)}`" for name, value in entry.options.items()),
        )
        for entry in DEGRADATIONS.values()
    ]
    return table(("degradation", "what it does", "ends in", "options"), rows)


def matrix() -> str:
    """Which baseline goes with which degradation, and what each can predict, as the rules decide."""
    trained = [baseline for baseline in BASELINES.values() if baseline.system is not None]
    rows = [
        (f"`{name}`", *("no" if refusal(Combination(b, {"degradation": name}, {}, 0)) else "yes" for b in trained))
        for name in DEGRADATIONS
    ]
    predictions = [(f"prediction `{name}`", *(_predicts(b, name) for b in trained)) for name in TARGETS]
    return table(("", *(b.name for b in trained)), [*rows, *predictions])


def _predicts(baseline: Baseline, prediction: str) -> str:
    return "no" if refusal(Combination(baseline, {"prediction": prediction}, {}, 0)) else "yes"


def refused_degradations() -> str:
    """Every refused pair of baseline and degradation with its sentence."""
    trained = [baseline for baseline in BASELINES.values() if baseline.system is not None]
    found: dict[tuple[str, str], list[str]] = {}
    for baseline in trained:
        for name in DEGRADATIONS:
            reason = refusal(Combination(baseline, {"degradation": name}, {}, 0))
            if reason is not None:
                why = reason.partition(": ")[2].partition(";")[0]
                found.setdefault((baseline.name, why), []).append(name)
    rows = [(f"`{baseline}`", " ".join(f"`{name}`" for name in names), why) for (baseline, why), names in found.items()]
    return table(("baseline", "refuses", "because"), rows)


def _marks(columns: Iterable[tuple[Baseline, str | None]], given: dict[str, Any]) -> Iterable[str]:
    for baseline, basis in columns:
        chosen = given if basis is None else {"basis": basis, **given}
        yield "no" if refusal(Combination(baseline, chosen, {}, 0)) else "yes"


def refused() -> dict[str, tuple[str, str]]:
    """Rule name -> the first combination of `EXAMPLES` that it refuses, and the sentence."""
    found: dict[str, tuple[str, str]] = {}
    for baseline in BASELINES.values():
        for basis in BASES:
            for example in EXAMPLES:
                given = {"basis": basis, **example} if "basis" in baseline.axes else example
                combination = Combination(baseline, given, {}, 0)
                for rule in (rule for rule in RULES if rule.matches(combination)):
                    found.setdefault(rule.name, (combination.label, rule.sentence(combination)))
                    break
    return found


def rules() -> str:
    """One example per validity rule, with the sentence that `plan` prints."""
    examples = refused()
    return table(("combination", "reason"), ((f"`{label}`", reason) for label, reason in examples.values()))


def bases() -> str:
    """Bases by their classes' docstrings."""
    shape, dim = (1, 4, 4), 16
    fitted = Statistics(torch.zeros(dim), torch.ones(dim), torch.eye(dim))
    rows = [(f"`{name}`", sentence(type(build_basis(name, shape, fitted)))) for name in BASES]
    return table(("basis", "components"), rows)


def presets() -> str:
    """What the presets of the networks stand for."""
    named = {"unet": unet.PRESETS, "mlp": mlp.PRESETS}
    rows = [
        (
            f"`{{kind: {kind}, preset: {preset}}}`",
            f"`{_flow({k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()})}`",
        )
        for kind, found in named.items()
        for preset, settings in found.items()
    ]
    return table(("network", "stands for"), rows)


def datasets() -> str:
    """Data sets that have a name of their own."""
    return table(("name", "stands for"), ((f"`{name}`", f"`{_flow(entry)}`") for name, entry in DATASETS.items()))


BLOCKS: dict[str, Callable[[], str]] = {
    "methods": methods,
    "families": families,
    "axes": axes,
    "validity": validity,
    "rules": rules,
    "degradations": degradations,
    "matrix": matrix,
    "refused_degradations": refused_degradations,
    "study": lambda: fields(StudyRequest, without=()),
    "grid": lambda: fields(GridSpec),
    "experiment": lambda: fields(ExperimentSpec),
    "overridable": lambda: ", ".join(f"`{name}`" for name in EXPERIMENT_AXES),
    "train": lambda: fields(TrainSpec),
    "average": lambda: fields(AverageSpec),
    "evaluate": lambda: fields(EvaluateSpec),
    "tune": lambda: fields(TuneSpec),
    "search": lambda: fields(SearchSpec),
    "amortise": lambda: fields(AmortiseSpec),
    "feature_net": lambda: fields(FeatureNetSpec),
    "sampler": lambda: fields(SamplerSpec, without=("kernel",)),
    "schedules": lambda: family(SCHEDULES),
    "bases": bases,
    "processes": lambda: family(PROCESSES),
    "operators": lambda: family(OPERATORS),
    "terminals": lambda: family(TERMINALS),
    "kernels": lambda: family(KERNELS),
    "likelihoods": lambda: family(LIKELIHOODS),
    "objectives": lambda: family(OBJECTIVES),
    "networks": lambda: family(NETWORKS),
    "presets": presets,
    "source": lambda: fields(SourceSpec),
    "sources": lambda: family(SOURCES, without=("kind", *SourceSpec.model_fields)),
    "image": lambda: fields(ImageFormat),
    "datasets": datasets,
}
"""Tables by the name that a page gives to their place."""


def filled(text: str) -> str:
    """A page with every marked place filled.

    Raises:
        KeyError: a place names a table that does not exist.
    """
    return MARKED.sub(lambda match: f"{match[1]}{BLOCKS[match[2]]()}\n{match[3]}", text)


def main(pages: Iterable[str]) -> None:
    """Fill the marked places of Markdown files; folders stand for the pages in them."""
    for name in pages:
        path = Path(name)
        for page in sorted(path.glob("*.md")) if path.is_dir() else [path]:
            page.write_text(filled(page.read_text()))


if __name__ == "__main__":
    main(sys.argv[1:])
