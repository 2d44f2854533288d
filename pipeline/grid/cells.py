"""The tasks behind one row: data, statistics, training, sample blocks, features, likelihood blocks, result."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.baselines.canonical import trained_system
from pipeline.baselines.samplers import SamplerSpec
from pipeline.baselines.system import SystemSpec
from pipeline.config import Spec, parse
from pipeline.diffusion.kernels.gaussian import AncestralSpec, DdimSpec
from pipeline.evaluate.features import FeatureSpec, group_size
from pipeline.evaluate.likelihood import LikelihoodBlock, absent_reason, elbo_absent_reason
from pipeline.evaluate.moments import MomentsSpec, moments_method
from pipeline.evaluate.result import ResultSpec
from pipeline.grid.spec import EvaluateSpec, ExperimentSpec
from pipeline.grid.tasks import Task
from pipeline.ingest.sources import pin
from pipeline.ingest.statistics import StatisticsSpec
from pipeline.ingest.terminal import TerminalFit
from pipeline.sample.blocks import sample_blocks
from pipeline.sample.study import StudySpec, applies
from pipeline.store import Key
from pipeline.train.spec import TrainTask

FEATURE_METRICS = frozenset({"fd_clf", "kid", "precision_recall", "diversity"})
"""Metrics that need the features of images."""

REFERENCE_ROWS = 5000
"""Feature rows of the training split that are kept for kernel and neighbour metrics."""


@dataclass(frozen=True)
class CellTasks:
    """Tasks of one cell; `training` and `sampling` are absent where a row needs none."""

    dataset: Task
    statistics: Task
    classifier: Task | None
    reference: Task | None
    training: Task | None
    terminal: Task | None
    samples: tuple[Task, ...]
    features: tuple[Task, ...]
    likelihoods: tuple[Task, ...]
    result: Task
    studies: tuple[Task, ...] = ()

    def in_order(self) -> Iterator[Task]:
        """Inputs before their users."""
        yield from (self.dataset, self.statistics)
        alone = (self.classifier, self.reference, self.training, self.terminal)
        yield from (task for task in alone if task is not None)
        yield from self.samples
        yield from self.features
        yield from self.likelihoods
        yield self.result
        yield from self.studies


def pinned_source(source: Any, root: str | None, pinned: dict[str, Any]) -> Any:
    """The data set with the digest of its content; each is read once."""
    name = source.model_dump_json()
    if name not in pinned:
        pinned[name] = pin(source, root or ".")
    return pinned[name]


def canonical(sampler: SamplerSpec) -> SamplerSpec:
    """The sampler under the one name that its twins share: DDIM with eta = 1 is the ancestral step."""
    if isinstance(sampler.kernel, DdimSpec) and sampler.kernel.eta == 1.0:
        return sampler.model_copy(update={"kernel": AncestralSpec(variance="small")})
    return sampler


def cell_tasks(
    evaluate: EvaluateSpec,
    experiment: ExperimentSpec,
    system: SystemSpec | Any,
    *,
    sampler: SamplerSpec | None,
    seed: int,
    root: str | None,
    pinned: dict[str, Any],
) -> CellTasks:
    """Every task of one row.

    Args:
        evaluate: how it is judged.
        experiment: data set, network and optimisation.
        system: what is trained, or the name of a control row.
        sampler: how it is sampled; None for a control row.
        seed: of training and sampling.
        root: folder of relative data locations.
        pinned: data sets whose content digest is already known; filled in here, so that each is read once.
    """
    is_control = not isinstance(system, SystemSpec)
    source = experiment.dataset
    dataset = Task("ingest", pinned_source(source, root, pinned), {}, f"ingest {source.name}")
    statistics = Task("statistics", StatisticsSpec(), {"dataset": dataset.key}, f"statistics {source.name}")
    data = {"dataset": dataset.key, "statistics": statistics.key}
    training = terminal = None
    inputs: dict[str, Key] = dict(data)
    label = _short_system(system)
    if not is_control:
        if system.network.is_trained:
            training = _training(system, experiment, data, seed)
            inputs["model"] = training.key
        if system.start is not None and system.start.source == "fitted":
            terminal = Task("terminal", TerminalFit(process=system.process), data, f"terminal {label}")
            inputs["terminal"] = terminal.key
        sampler = canonical(sampler) if sampler is not None else None
    classifier, reference, net = _feature_net(evaluate, source, data)
    reason = absent_reason(system)
    moments = _moments(evaluate, system, sampler, seed) if "moments" in evaluate.metrics else None
    samples: list[Task] = []
    features: list[Task] = []
    if net is not None or (moments is not None and moments.method == "images"):
        blocks = sample_blocks(
            system,
            sampler,
            num_images=evaluate.num_images,
            block_size=evaluate.block_images,
            seed=seed,
            batch_shape=min(evaluate.batch_images, evaluate.block_images),
        )
        for block in blocks:
            name = f"{label} seed {seed} block {block.block}"
            samples.append(Task("sample", block, inputs, f"sample {name}"))
            if net is None or classifier is None:
                continue
            own = {"dataset": dataset.key, "images": samples[-1].key, "classifier": classifier.key}
            features.append(Task("features", net, own, f"features {name}"))
    scores: dict[str, list[Task]] = {"features": features}
    if "nll" in evaluate.metrics and reason is None:
        scores["likelihood"] = list(_likelihoods(evaluate, system, None if is_control else evaluate.likelihood, inputs))
    if "elbo" in evaluate.metrics and elbo_absent_reason(system) is None:
        scores["elbo"] = list(_likelihoods(evaluate, system, evaluate.elbo, inputs))
    if moments is not None:
        blocks_of = {f"images.{index:06d}": task.key for index, task in enumerate(samples)}
        own = {**inputs, **(blocks_of if moments.method == "images" else {})}
        scores["moments"] = [Task("moments", moments, own, f"moments {label} seed {seed}")]
    result = _result(evaluate, reference, scores, {"nll": reason, "elbo": elbo_absent_reason(system)}, label)
    likelihoods = [*scores.get("likelihood", []), *scores.get("elbo", []), *scores.get("moments", [])]
    return CellTasks(
        dataset,
        statistics,
        classifier,
        reference,
        training,
        terminal,
        tuple(samples),
        tuple(features),
        tuple(likelihoods),
        result,
        () if is_control else tuple(_studies(evaluate, system, sampler, inputs, seed)),
    )


def _training(system: SystemSpec, experiment: ExperimentSpec, data: dict[str, Key], seed: int) -> Task:
    """The training that serves a system: its own, or that of the box of schedules in which it lies."""
    trained = trained_system(system)
    weight = float(experiment.train.steps * experiment.train.batch)
    spec = TrainTask(system=trained, train=experiment.train, seed=seed)
    return Task("train", spec, data, f"train {_short_system(trained)} seed {seed}", weight)


def _likelihoods(
    evaluate: EvaluateSpec, system: SystemSpec | Any, likelihood: Any, inputs: dict[str, Key]
) -> Iterator[Task]:
    """The held-out images in blocks under one likelihood."""
    size, is_bound = evaluate.nll_block_images, likelihood is not None and likelihood.kind == "elbo"
    count = evaluate.elbo_images if is_bound and evaluate.elbo_images is not None else evaluate.nll_images
    for block in range(-(-count // size)):
        spec = LikelihoodBlock(
            system=system,
            likelihood=likelihood,
            block=block,
            block_size=size,
            batch_shape=min(size, evaluate.batch_images),
        )
        yield Task(
            "likelihood", spec, inputs, f"{'elbo' if is_bound else 'likelihood'} {_short_system(system)} block {block}"
        )


def _moments(evaluate: EvaluateSpec, system: SystemSpec | Any, sampler: SamplerSpec | None, seed: int) -> MomentsSpec:
    return MomentsSpec(
        system=system,
        sampler=sampler,
        method=moments_method(system, sampler),
        num_images=evaluate.num_images,
        seed=seed,
    )


def _feature_net(
    evaluate: EvaluateSpec, source: Spec, data: dict[str, Key]
) -> tuple[Task | None, Task | None, FeatureSpec | None]:
    """The feature classifier's training, the reference features, and the specification of a block's features."""
    if not FEATURE_METRICS & set(evaluate.metrics):
        return None, None, None
    name = str(getattr(source, "name", ""))
    system = evaluate.feature_net.system()
    task = TrainTask(system=system, train=evaluate.feature_net.train, seed=evaluate.feature_net.seed)
    weight = float(task.train.steps * task.train.batch)
    classifier = Task("train", task, data, f"train classifier of {name}", weight)
    net = FeatureSpec(net=f"fd_clf_{name}", classifier=system, group_size=group_size(evaluate.num_images))
    inputs = {"dataset": data["dataset"], "classifier": classifier.key}
    spec = net.model_copy(update={"split": "train", "with_ladder": True, "num_rows": REFERENCE_ROWS})
    return classifier, Task("features", spec, inputs, f"features of {name}"), net


def _studies(
    evaluate: EvaluateSpec, system: SystemSpec, sampler: SamplerSpec | None, inputs: dict[str, Key], seed: int
) -> Iterator[Task]:
    """The studies that apply to a system: those of a latent code need one, extensions an order of columns."""
    for request in evaluate.studies:
        if not applies(request.kind, system):
            continue
        spec = StudySpec(
            kind=request.kind,
            system=system,
            sampler=None if request.kind == "forward" else sampler,
            num_images=request.num_images,
            windows=request.windows,
            seed=seed,
        )
        own = {name: key for name, key in inputs.items() if request.kind != "forward" or name != "model"}
        yield Task("study", spec, own, f"study {request.kind} {_short_system(system)} seed {seed}")


def _result(
    evaluate: EvaluateSpec,
    reference: Task | None,
    scores: Mapping[str, list[Task]],
    reasons: Mapping[str, str | None],
    label: str,
) -> Task:
    inputs: dict[str, Key] = {} if reference is None else {"reference": reference.key}
    for name, tasks in scores.items():
        if name == "moments":
            inputs["moments"] = tasks[0].key
        else:
            inputs |= {f"{name}.{index:06d}": task.key for index, task in enumerate(tasks)}
    metrics = ["fd" if metric == "fd_clf" else metric for metric in evaluate.metrics]
    absent = {name: reason for name, reason in reasons.items() if reason is not None and name in evaluate.metrics}
    row = {"metrics": metrics, "num_images": evaluate.num_images, "absent": absent}
    spec = parse(ResultSpec, row, "evaluate")
    return Task("result", spec, inputs, f"result {label}")


def _short_system(system: SystemSpec | str) -> str:
    if isinstance(system, str):
        return system
    process = system.process
    if process is None:
        return "classifier"
    if process.kind == "operator":
        return f"{process.degradation.kind} {system.objective.kind} {system.prediction}"
    schedule = process.schedule
    softness = getattr(schedule, "softness_a", None)
    suffix = "" if softness is None else f" a={softness:g}"
    kind = "" if system.objective.kind == "denoising" else f"{system.objective.kind} "
    return f"{kind}{schedule.kind} {process.basis}{suffix} {system.prediction}"
