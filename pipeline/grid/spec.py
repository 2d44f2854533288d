"""The typed tree of a grid file."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from pipeline.baselines import BASELINES
from pipeline.baselines.samplers import SamplerSpec
from pipeline.baselines.system import SystemSpec
from pipeline.config import Document, Spec, closest, load_yaml, parse, runtime, union, with_overrides
from pipeline.config.errors import ConfigError
from pipeline.diffusion.likelihoods import LIKELIHOODS, VlbSpec
from pipeline.evaluate.measures import SampleMetric
from pipeline.evaluate.nets import AnyNetSpec, NetSpec
from pipeline.grid.axes import SPELLINGS, combinations
from pipeline.ingest.sources import SOURCES
from pipeline.networks import NETWORKS
from pipeline.sample.study import Kind as StudyKind
from pipeline.train.spec import AverageSpec, TrainSpec

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
InceptionMetric = Literal["fid", "clean_fid", "fid_pytorch", "fid_fast", "fd_rand_inception"]
Metric = Literal[InceptionMetric, "fd_clf", SampleMetric, "points", "elbo", "nll", "vlb", "moments"]

DATASETS: dict[str, dict[str, Any]] = {
    "digits": {"kind": "digits", "name": "digits"},
    "mnist": {"kind": "idx", "name": "mnist", "uri": "mnist"},
    "cifar10": {"kind": "cifar_binary", "name": "cifar10", "uri": "cifar10"},
    "afhq64": {"kind": "image_folder", "name": "afhq64", "uri": "afhq", "image": {"size": 64}},
    "lsun_church128": {
        "kind": "image_folder",
        "name": "lsun_church128",
        "uri": "church_outdoor",
        "image": {"size": 128},
    },
}
"""Data sets by name; relative locations are below the data folder."""

INCEPTIONS: dict[InceptionMetric, dict[str, Any]] = {
    "fid": {"kind": "inception"},
    "clean_fid": {"kind": "inception", "resize": "clean"},
    "fid_pytorch": {"kind": "inception", "resize": "torch"},
    "fid_fast": {"kind": "inception", "fast": True},
    "fd_rand_inception": {"kind": "inception", "seeded": True},
}
"""Distances in the features of the Inception network, and its net each."""

SORTABLE = {
    **{name: name for name in INCEPTIONS},
    "fd_clf": "fd_clf_",
    "kid": "kid",
    "nll": "nll_bpd",
    "elbo": "elbo_bpd",
    "vlb": "vlb_bpd",
    "moments": "w2",
}
"""How the names of those metrics begin that are small for good models; a table is sorted by one of them."""

MAX_COMBINATIONS = 10_000


class ExperimentSpec(Spec):
    """What the cells of a grid share; a block may replace any part of it."""

    dataset: union(SOURCES)
    network: union(NETWORKS)
    train: TrainSpec = TrainSpec()
    class_conditional: bool = False

    @field_validator("dataset", mode="before")
    @classmethod
    def _dataset_by_name(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value not in DATASETS:
            raise ValueError(f"unknown data set {value!r}{closest(value, list(DATASETS))}")
        return DATASETS[value]


class FeatureNetSpec(Spec):
    """The classifier whose penultimate layer is the feature space of `fd_clf_<dataset>`."""

    network: union({"classifier": NETWORKS["classifier"]}) = NETWORKS["classifier"]()
    train: TrainSpec = TrainSpec(steps=1500, batch=128, lr=1e-3, lr_decay="cosine", ema=AverageSpec(decay=0.99))
    seed: NonNegativeInt = 0

    def system(self) -> SystemSpec:
        """The classifier as an ordinary training without a diffusion process."""
        return SystemSpec(
            process=None,
            objective=parse(SystemSpec.model_fields["objective"].annotation, _CLASSIFY),
            network=self.network,
        )


_CLASSIFY = {"kind": "classification"}


class StudyRequest(Spec):
    """One study of every model that it applies to; written short as its kind."""

    kind: StudyKind
    num_images: PositiveInt = 64
    windows: tuple[tuple[NonNegativeInt, PositiveInt], ...] | None = None

    @model_validator(mode="before")
    @classmethod
    def _kind_alone(cls, data: Any) -> Any:
        return {"kind": data} if isinstance(data, str) else data


class EvaluateSpec(Spec):
    """How models are judged."""

    num_images: PositiveInt = 50_000
    block_images: PositiveInt = 1000  # images per sampling task and artifact
    batch_images: PositiveInt = 250  # images per network call, part of what an image is
    samplers: dict[str, tuple[SamplerSpec, ...]] = Field(default_factory=dict)
    metrics: tuple[Metric, ...] = Field(default=("fd_clf", "nll"), min_length=1)
    likelihood: union(LIKELIHOODS) = LIKELIHOODS["ode"]()
    elbo: union({"elbo": LIKELIHOODS["elbo"]}) = LIKELIHOODS["elbo"]()
    nll_images: PositiveInt = 10_000  # test images scored; fewer when the split ends
    nll_block_images: PositiveInt = 500
    elbo_images: PositiveInt | None = None  # test images under a bound, which is cheap; null: as many as nll_images
    vlb: union({"vlb": LIKELIHOODS["vlb"]}) = VlbSpec(start_noise=0.5)  # bound of the metric `vlb`, on levels
    feature_net: FeatureNetSpec = FeatureNetSpec()
    inception_weights: str | None = runtime(None)  # path or URI of pt_inception-2015-12-05-6726825d.pth, for `fid`
    feature_nets: tuple[AnyNetSpec, ...] = ()  # nets of your own; each adds the distance of its name
    neighbour_rows: PositiveInt = 10_000  # images per side for KID, precision, recall, density, coverage and CMMD
    studies: tuple[StudyRequest, ...] = ()
    primary: str | None = None

    @field_validator("samplers", mode="before")
    @classmethod
    def _expand_samplers(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        expanded: dict[str, Any] = {}
        for name, samplers in value.items():
            name = SPELLINGS.get(name, name)
            if name not in BASELINES:
                raise ValueError(f"unknown baseline {name!r}{closest(name, list(BASELINES))}")
            entries = samplers if isinstance(samplers, list | tuple) else (samplers,)
            expanded[name] = tuple(flat for entry in entries for flat in _product(entry))
        return expanded

    @model_validator(mode="after")
    def _blocks_fit(self) -> "EvaluateSpec":
        if self.batch_images > self.block_images:
            raise ValueError(f"batch_images = {self.batch_images} is more than block_images = {self.block_images}")
        return self

    @model_validator(mode="after")
    def _nets_can_be_had(self) -> "EvaluateSpec":
        public = [metric for metric in self.metrics if metric in INCEPTIONS and not INCEPTIONS[metric].get("seeded")]
        if public and self.inception_weights is None:
            raise ValueError(
                f"metrics: {public[0]} needs inception_weights, the path or URI of "
                "pt_inception-2015-12-05-6726825d.pth; without that file use fd_clf or fd_rand_inception"
            )
        names = [*self.metrics, *(net.name for net in self.feature_nets)]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice} is asked for twice; name each metric and each feature net once")
        return self

    @property
    def extractors(self) -> tuple[NetSpec, ...]:
        """Nets with weights of their own, in the order of the metrics; then those of `feature_nets`."""
        chosen = (
            parse(AnyNetSpec, {**INCEPTIONS[name], **self._location(name)}, "evaluate.feature_nets")
            for name in self.metrics
            if name in INCEPTIONS
        )
        return (*chosen, *self.feature_nets)

    def _location(self, name: InceptionMetric) -> dict[str, Any]:
        return {} if INCEPTIONS[name].get("seeded") else {"weights": self.inception_weights}

    @model_validator(mode="after")
    def _primary_is_measured(self) -> "EvaluateSpec":
        possible = [SORTABLE[metric] for metric in self.metrics if metric in SORTABLE]
        possible += [net.name for net in self.feature_nets]
        if self.primary is not None and not self.primary.startswith(tuple(possible)):
            names = " or ".join(f"{name}<data set>" if name.endswith("_") else name for name in possible)
            raise ValueError(f"primary = {self.primary} is no metric to sort by here; use {names or 'none'}")
        return self


Bounds = tuple[float, float]


class SearchSpec(Spec):
    """Points that a searcher proposes instead of a list."""

    space: dict[Literal["softness_a", "ordering_r"], Bounds] = Field(min_length=1)  # from, to
    step: PositiveFloat = 0.05  # proposals are rounded to multiples of it, so that they meet again
    num_trials: PositiveInt = 30
    metric: str = "elbo_bpd"  # what is made small
    seed: NonNegativeInt = 0  # of the searcher

    @field_validator("space")
    @classmethod
    def _bounds_rise(cls, value: dict[str, Bounds]) -> dict[str, Bounds]:
        for name, (low, high) in value.items():
            if low >= high:
                raise ValueError(f"{name}: [{low:g}, {high:g}] is empty; give [from, to]")
        return value


class TuneSpec(Spec):
    """How `tune` walks the points of a grid; a point is one combination and seed with all its samplers."""

    mode: Literal["exhaustive", "staged", "search"] = "exhaustive"
    rungs: tuple[tuple[Metric, ...], ...] = (("elbo",), ("nll", "fd_clf"))  # staged: metrics that each rung adds
    promote: PositiveInt = 20  # staged: points of the next rung, and those that are no worse by a paired difference
    equal_ends: bool = True  # all gud rows have the same log_snr_data and log_snr_prior, so that likelihoods compare
    search: SearchSpec | None = None
    max_concurrent: PositiveInt | None = runtime(None)  # trials at once; null: as many as there are CPUs or GPUs

    @model_validator(mode="after")
    def _search_has_a_space(self) -> "TuneSpec":
        if (self.mode == "search") != (self.search is not None):
            raise ValueError("mode: search and the section search go together; give both or none")
        return self


class GridSpec(Spec):
    """One grid file."""

    name: Name
    experiment: ExperimentSpec
    grid: tuple[dict[str, Any], ...] = Field(min_length=1)
    evaluate: EvaluateSpec = EvaluateSpec()
    seeds: tuple[NonNegativeInt, ...] = Field((0,), min_length=1)
    tune: TuneSpec | None = None
    base: str | None = runtime(None)

    @model_validator(mode="after")
    def _rungs_hold_the_metrics(self) -> "GridSpec":
        if self.tune is None or self.tune.mode != "staged":
            return self
        listed = [metric for rung in self.tune.rungs for metric in rung]
        if sorted(listed) != sorted(self.evaluate.metrics):
            asked = ", ".join(self.evaluate.metrics)
            raise ValueError(f"tune.rungs: each metric of evaluate.metrics ({asked}) stands in one rung, once")
        return self

    @model_validator(mode="after")
    def _blocks_name_known_axes(self) -> "GridSpec":
        for count, _ in enumerate(combinations(self.grid)):
            if count * len(self.seeds) >= MAX_COMBINATIONS:
                raise ValueError(f"the grid has more than {MAX_COMBINATIONS} combinations; split it")
        return self


def _product(entry: Any) -> list[Any]:
    """One sampler whose fields may be lists, as the samplers that it stands for."""
    if not isinstance(entry, Mapping):
        return [entry]
    flat: list[dict[str, Any]] = [{}]
    for key, value in entry.items():
        values = value if isinstance(value, list | tuple) else (value,)
        flat = [{**partial, key: item} for partial in flat for item in values]
    return flat


def load_grid(path: str, overrides: tuple[str, ...] = ()) -> GridSpec:
    """Read a grid file with its base file and `path=value` overrides.

    Raises:
        ConfigError: anything that is wrong, with file, line, path and the nearest valid key.
    """
    document = load_yaml(path)
    if not isinstance(document.data, Mapping):
        raise ConfigError(f"{path}: a grid file is a mapping with name, experiment and grid")
    base = document.data.get("base")
    if base is not None:
        document = document.merged_over(_base_document(path, base))
    return grid_from(with_overrides(document, overrides))


def _base_document(path: str, base: Any) -> Document:
    from pathlib import Path

    if not isinstance(base, str):
        raise ConfigError(f"{path}: base: name one YAML file, relative to this one")
    document = load_yaml(Path(path).parent / base)
    if isinstance(document.data, Mapping) and "base" in document.data:
        raise ConfigError(f"{document.source}: base: a base file cannot have a base itself")
    return document


def grid_from(document: Document) -> GridSpec:
    """Validate a document that is already in memory."""
    return parse(GridSpec, document.data, locate=document.locate)
