"""The tasks of feature nets: their classifier, features of the data, known answers; and which net measures what."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pipeline.config import Spec
from pipeline.evaluate.features import RAW_NET, FeatureSpec, NetChoice
from pipeline.evaluate.ladder import LadderSpec
from pipeline.evaluate.measures import SampleMetric
from pipeline.evaluate.nearest import NearestSpec
from pipeline.grid.spec import INCEPTIONS, EvaluateSpec
from pipeline.grid.tasks import Task
from pipeline.store import Key
from pipeline.train.spec import TrainTask

SAMPLE_METRICS = frozenset(get_args(SampleMetric))
"""Metrics that need the features of images, in whichever net comes first."""

REFERENCE_PARTS = 16
"""Tasks that share a split where the net is large."""

LARGE_NET_BATCH = 32
"""Images per call of a large net: few, because the last call of a part is filled up."""


@dataclass(frozen=True)
class NetTasks:
    """One feature net of a grid.

    Attributes:
        spec: features of one block of images.
        data: the data set, by the name of the input.
        classifier: training of a net that is a classifier.
        reference: features of the training split.
        held_out: features of the test split, where they are needed.
        ladder: known answers of a classifier.
    """

    spec: FeatureSpec
    data: Mapping[str, Key]
    classifier: Task | None
    reference: tuple[Task, ...]
    held_out: tuple[Task, ...]
    ladder: Task | None

    @property
    def name(self) -> str:
        return self.spec.net

    def of_images(self, blocks: Sequence[Task]) -> list[Task]:
        """Features of generated images, by block."""
        given = {**self.data, **({} if self.classifier is None else {"classifier": self.classifier.key})}
        return [
            Task("features", self.spec, {**given, "images": block.key}, f"{self.name} of {block.label}")
            for block in blocks
        ]

    def nearest_training_images(self, features: Sequence[Task]) -> list[Task]:
        """The nearest training image of every image, by block of features."""
        training = {f"reference.{index:06d}": task.key for index, task in enumerate(self.reference)}
        return [
            Task("nearest", NearestSpec(), {**training, "queries": task.key}, f"nearest training images, {task.label}")
            for task in features
        ]

    @property
    def of_result(self) -> dict[str, Key]:
        """What a row is measured against."""
        named = {f"reference.{self.name}": self.reference, f"held_out.{self.name}": self.held_out}
        keys = {f"{name}.{index:06d}": task.key for name, tasks in named.items() for index, task in enumerate(tasks)}
        return keys if self.ladder is None else {**keys, f"ladder.{self.name}": self.ladder.key}

    def tasks(self) -> Iterator[Task]:
        """Inputs before their users."""
        if self.classifier is not None:
            yield self.classifier
        yield from self.reference
        yield from self.held_out
        if self.ladder is not None:
            yield self.ladder


def check_nets(evaluate: EvaluateSpec, tasks: Callable[[], Iterable[Task]]) -> None:
    """Load every net of the feature tasks once, so that wrong weights are told before hours of work and not after.

    Args:
        evaluate: without nets that have weights of their own nothing is asked.
        tasks: gives what still has to run.

    Raises:
        DataError: missing or wrong weights.
        ConfigError: a location or an import that cannot be resolved.
    """
    if not evaluate.extractors:
        return
    specs = [task.spec for task in tasks() if isinstance(task.spec, FeatureSpec)]
    nets = {spec.net: spec.extractor for spec in specs if spec.extractor is not None}
    for net in nets.values():
        net.load("cpu")


def feature_nets(
    evaluate: EvaluateSpec, source: Spec, data: Mapping[str, Key], *, root: str | None = None
) -> tuple[NetTasks, ...]:
    """The nets that the metrics of a grid need, in the order of the metrics; without any other the classifier.

    Metrics that name no net are taken in the features of the first one; `points` takes the data as they are. Locations
    of weights are relative to `root`.
    """
    extractors = {net.name: net.located(root or ".") for net in evaluate.extractors}
    names = [name for name in evaluate.metrics if name in INCEPTIONS or name == "fd_clf"]
    names += [net.name for net in evaluate.feature_nets]
    if not names and SAMPLE_METRICS & set(evaluate.metrics):
        names = ["fd_clf"]
    if "points" in evaluate.metrics:
        names.append(RAW_NET)
    nets: list[NetTasks] = []
    for name in names:
        classifier: Task | None = None
        if name == "fd_clf":
            spec, classifier = _classifier(evaluate, source, data)
        elif name == RAW_NET:
            spec = FeatureSpec(net=RAW_NET)
        else:
            spec = FeatureSpec(net=name, extractor=extractors[name], batch_shape=LARGE_NET_BATCH)
        nets.append(_net_tasks(spec, classifier, evaluate, source, data, is_first=not nets))
    return tuple(nets)


def _classifier(evaluate: EvaluateSpec, source: Spec, data: Mapping[str, Key]) -> tuple[FeatureSpec, Task]:
    name = str(getattr(source, "name", ""))
    system = evaluate.feature_net.system()
    training = TrainTask(system=system, train=evaluate.feature_net.train, seed=evaluate.feature_net.seed)
    weight = float(training.train.steps * training.train.batch)
    return (
        FeatureSpec(net=f"fd_clf_{name}", classifier=system),
        Task("train", training, dict(data), f"train classifier of {name}", weight),
    )


def _net_tasks(
    spec: FeatureSpec,
    classifier: Task | None,
    evaluate: EvaluateSpec,
    source: Spec,
    data: Mapping[str, Key],
    *,
    is_first: bool,
) -> NetTasks:
    name = str(getattr(source, "name", ""))
    inputs = {"dataset": data["dataset"], **({} if classifier is None else {"classifier": classifier.key})}

    def of_split(split: str) -> tuple[Task, ...]:
        num_parts = REFERENCE_PARTS if spec.extractor is not None else 1
        changes: list[dict[str, Any]] = [
            {"split": split, "part": part, "num_parts": num_parts} for part in range(num_parts)
        ]
        words = "" if split == "train" else " test split"
        return tuple(
            Task("features", spec.model_copy(update=change), inputs, f"{spec.net} of {name}{words}")
            for change in changes
        )

    reference = of_split("train")
    needs_test = is_first and {"memorisation", "test_distance"} & set(evaluate.metrics)
    ladder = None
    if spec.classifier is not None:
        choice = LadderSpec(**{field: getattr(spec, field) for field in NetChoice.model_fields})
        own = {**inputs, **{f"reference.{index:06d}": task.key for index, task in enumerate(reference)}}
        ladder = Task("ladder", choice, own, f"known answers of {spec.net}")
    return NetTasks(
        spec, {"dataset": data["dataset"]}, classifier, reference, of_split("test") if needs_test else (), ladder
    )
