"""The tasks behind one row: data, statistics, training, sample blocks, features, likelihood blocks, result."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.baselines.system import SystemSpec
from pipeline.config import Spec, parse
from pipeline.diffusion.kernels.gaussian import AncestralSpec, DdimSpec
from pipeline.evaluate.features import FeatureSpec, group_size
from pipeline.evaluate.likelihood import LikelihoodBlock, absent_reason
from pipeline.evaluate.result import ResultSpec
from pipeline.grid.spec import EvaluateSpec, ExperimentSpec
from pipeline.grid.tasks import Task
from pipeline.ingest.sources import pin
from pipeline.ingest.statistics import StatisticsSpec
from pipeline.ingest.terminal import TerminalFit
from pipeline.sample.blocks import SamplerSpec, sample_blocks
from pipeline.sample.study import OF_LATENTS, StudySpec
from pipeline.store import Key
from pipeline.train.spec import TrainTask

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
    if not is_control:
        spec = TrainTask(system=system, train=experiment.train, seed=seed)
        weight = float(experiment.train.steps * experiment.train.batch)
        training = Task("train", spec, data, f"train {_short_system(system)} seed {seed}", weight)
        inputs["model"] = training.key
        if system.start is not None and system.start.source == "fitted":
            fit = TerminalFit(process=system.process)
            terminal = Task("terminal", fit, data, f"terminal {_short_system(system)}")
            inputs["terminal"] = terminal.key
        sampler = canonical(sampler) if sampler is not None else None
    classifier, reference, net = _feature_net(evaluate, source, data)
    samples: list[Task] = []
    features: list[Task] = []
    if reference is not None and net is not None:
        blocks = sample_blocks(
            system,
            sampler,
            num_images=evaluate.num_images,
            block_size=evaluate.block_images,
            seed=seed,
            batch_shape=min(evaluate.batch_images, evaluate.block_images),
        )
        for block in blocks:
            label = f"{_short_system(system)} seed {seed} block {block.block}"
            samples.append(Task("sample", block, inputs, f"sample {label}"))
            feature_inputs = {"dataset": dataset.key, "images": samples[-1].key}
            if classifier is not None:
                feature_inputs["classifier"] = classifier.key
            features.append(Task("features", net, feature_inputs, f"features {label}"))
    likelihoods: list[Task] = []
    reason = absent_reason(system)
    if "nll" in evaluate.metrics and reason is None:
        for block in range(-(-evaluate.nll_images // evaluate.nll_block_images)):
            size = evaluate.nll_block_images
            spec = LikelihoodBlock(
                system=system,
                likelihood=None if is_control else evaluate.likelihood,
                block=block,
                block_size=size,
                batch_shape=min(size, evaluate.batch_images),
            )
            likelihoods.append(Task("likelihood", spec, inputs, f"likelihood {_short_system(system)} block {block}"))
    result = _result(evaluate, reference, features, likelihoods, reason, _short_system(system))
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


def _feature_net(
    evaluate: EvaluateSpec, source: Spec, data: dict[str, Key]
) -> tuple[Task | None, Task | None, FeatureSpec | None]:
    """The feature classifier's training, the reference features, and the specification of a block's features."""
    if not set(evaluate.metrics) - {"nll"}:
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
    """The studies that apply to a system: those of a latent code need one, sheets of a path need images on it."""
    for request in evaluate.studies:
        if request.kind in OF_LATENTS and system.objective.num_latents is None:
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
    features: list[Task],
    likelihoods: list[Task],
    reason: str | None,
    label: str,
) -> Task:
    inputs: dict[str, Key] = {} if reference is None else {"reference": reference.key}
    inputs |= {f"features.{index:06d}": task.key for index, task in enumerate(features)}
    inputs |= {f"likelihood.{index:06d}": task.key for index, task in enumerate(likelihoods)}
    metrics = ["fd" if metric == "fd_clf" else metric for metric in evaluate.metrics]
    absent = {"nll": reason} if reason is not None and "nll" in evaluate.metrics else {}
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
