"""The tasks behind one row: data, statistics, training, sample blocks, features, likelihood blocks, result."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.baselines.canonical import trained_system
from pipeline.baselines.samplers import SamplerSpec
from pipeline.baselines.system import SystemSpec
from pipeline.config import parse
from pipeline.diffusion.kernels.gaussian import AncestralSpec, DdimSpec
from pipeline.evaluate.likelihood import LikelihoodBlock, absent_reason, elbo_absent_reason, vlb_absent_reason
from pipeline.evaluate.moments import MomentsSpec, moments_method
from pipeline.evaluate.result import ResultSpec
from pipeline.grid.feature_tasks import NetTasks, feature_nets
from pipeline.grid.spec import INCEPTIONS, EvaluateSpec, ExperimentSpec
from pipeline.grid.tasks import Task
from pipeline.ingest.sources import pin
from pipeline.ingest.statistics import StatisticsSpec
from pipeline.ingest.terminal import TerminalFit
from pipeline.sample.blocks import sample_blocks
from pipeline.sample.study import StudySpec, applies
from pipeline.store import Key
from pipeline.train.spec import TrainTask


@dataclass(frozen=True)
class CellTasks:
    """Tasks of one cell; `training` and `sampling` are absent where a row needs none."""

    dataset: Task
    statistics: Task
    nets: tuple[NetTasks, ...]
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
        for net in self.nets:
            yield from net.tasks()
        yield from (task for task in (self.training, self.terminal) if task is not None)
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
    nets = feature_nets(evaluate, source, data, root=root)
    reason = absent_reason(system)
    moments = _moments(evaluate, system, sampler, seed) if "moments" in evaluate.metrics else None
    samples: list[Task] = []
    if nets or (moments is not None and moments.method == "images"):
        blocks = sample_blocks(
            system,
            sampler,
            num_images=evaluate.num_images,
            block_size=evaluate.block_images,
            seed=seed,
            batch_shape=min(evaluate.batch_images, evaluate.block_images),
        )
        samples = [Task("sample", block, inputs, f"sample {label} seed {seed} block {block.block}") for block in blocks]
    scores: dict[str, list[Task]] = {f"features.{net.name}": net.of_images(samples) for net in nets}
    features = [task for tasks in scores.values() for task in tasks]
    if "memorisation" in evaluate.metrics:
        scores["nearest"] = nets[0].nearest_training_images(scores[f"features.{nets[0].name}"])
        scores["nearest_held_out"] = nets[0].nearest_training_images(nets[0].held_out)
    reasons = {"nll": reason, "elbo": elbo_absent_reason(system), "vlb": vlb_absent_reason(system, evaluate.vlb)}
    if "nll" in evaluate.metrics and reason is None:
        scores["likelihood"] = list(_likelihoods(evaluate, system, None if is_control else evaluate.likelihood, inputs))
    for name, bound in (("elbo", evaluate.elbo), ("vlb", evaluate.vlb)):
        if name in evaluate.metrics and reasons[name] is None:
            scores[name] = list(_likelihoods(evaluate, system, bound, inputs))
    if moments is not None:
        blocks_of = {f"images.{index:06d}": task.key for index, task in enumerate(samples)}
        own = {**inputs, **(blocks_of if moments.method == "images" else {})}
        scores["moments"] = [Task("moments", moments, own, f"moments {label} seed {seed}")]
    result = _result(evaluate, nets, scores, reasons, label)
    others = ("nearest", "nearest_held_out", "likelihood", "elbo", "vlb", "moments")
    return CellTasks(
        dataset,
        statistics,
        nets,
        training,
        terminal,
        tuple(samples),
        tuple(features),
        tuple(task for name in others for task in scores.get(name, ())),
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
    kind = "likelihood" if likelihood is None or likelihood.kind not in ("elbo", "vlb") else likelihood.kind
    size, is_bound = evaluate.nll_block_images, kind != "likelihood"
    count = evaluate.elbo_images if is_bound and evaluate.elbo_images is not None else evaluate.nll_images
    for block in range(-(-count // size)):
        spec = LikelihoodBlock(
            system=system,
            likelihood=likelihood,
            block=block,
            block_size=size,
            batch_shape=min(size, evaluate.batch_images),
        )
        yield Task("likelihood", spec, inputs, f"{kind} {_short_system(system)} block {block}")


def _moments(evaluate: EvaluateSpec, system: SystemSpec | Any, sampler: SamplerSpec | None, seed: int) -> MomentsSpec:
    return MomentsSpec(
        system=system,
        sampler=sampler,
        method=moments_method(system, sampler),
        num_images=evaluate.num_images,
        seed=seed,
    )


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
    nets: tuple[NetTasks, ...],
    scores: Mapping[str, Sequence[Task]],
    reasons: Mapping[str, str | None],
    label: str,
) -> Task:
    inputs: dict[str, Key] = {}
    for net in nets:
        inputs |= net.of_result
    for name, tasks in scores.items():
        if name == "moments":
            inputs["moments"] = tasks[0].key
        else:
            inputs |= {f"{name}.{index:06d}": task.key for index, task in enumerate(tasks)}
    of_nets = {"fd_clf", *INCEPTIONS}
    metrics = [metric for metric in evaluate.metrics if metric not in of_nets]
    if of_nets & set(evaluate.metrics) or evaluate.feature_nets:
        metrics.insert(0, "fd")
    absent = {name: reason for name, reason in reasons.items() if reason is not None and name in evaluate.metrics}
    row = {
        "metrics": metrics,
        "nets": [net.name for net in nets],
        "num_images": evaluate.num_images,
        "num_rows": evaluate.neighbour_rows,
        "absent": absent,
    }
    return Task("result", parse(ResultSpec, row, "evaluate"), inputs, f"result {label}")


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
