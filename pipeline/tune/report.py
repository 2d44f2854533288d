"""What a `tune` did, and the lines that say so."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from pipeline.evaluate.likelihood import LikelihoodBlock
from pipeline.grid.plan import Plan
from pipeline.grid.run import RunReport
from pipeline.grid.tasks import Task
from pipeline.sample.blocks import SampleBlock
from pipeline.store import Store

DRAWN, BOUNDED, SCORED = "{:,} images drawn", "ELBO of {:,}", "NLL of {:,} images"
"""Kinds of evaluations, as a line counts them."""


@dataclass(frozen=True)
class RungCount:
    """Trials of one rung or search in this command: `executed` had work to do and came to their end."""

    title: str
    num_points: int
    executed: int
    failed: int = 0


@dataclass(frozen=True)
class TuneReport:
    """What a command did.

    Attributes:
        plan: each point at the rung where it stands now.
        run: executed tasks by stage and failures, as `run` reports them.
        rungs: trials of each rung.
        evaluations: numbers of images by kind of evaluation.
        seconds: of wall time.
    """

    plan: Plan
    run: RunReport
    rungs: tuple[RungCount, ...]
    evaluations: Mapping[str, int] = field(default_factory=dict[str, int])
    seconds: float = 0.0


def evaluations_of(tasks: Iterable[Task], store: Store) -> dict[str, int]:
    """Images drawn, and held-out images scored by the ELBO and by the likelihood, of tasks that are done."""
    counts: dict[str, int] = dict.fromkeys((DRAWN, BOUNDED, SCORED), 0)
    for task in tasks:
        if isinstance(task.spec, SampleBlock):
            counts[DRAWN] += task.spec.count
        elif isinstance(task.spec, LikelihoodBlock):
            artifact = store.find(task.key)
            is_bound = task.spec.likelihood is not None and task.spec.likelihood.kind == "elbo"
            counts[BOUNDED if is_bound else SCORED] += 0 if artifact is None else int(artifact.meta["count"])
    return counts


def tune_lines(report: TuneReport) -> Iterator[str]:
    """How many trials were executed per rung, and what the command cost."""
    if any(count.executed or count.failed for count in report.rungs):
        parts = [f"{count.title} {count.executed} of {count.num_points} points" for count in report.rungs]
        yield f"trials executed: {', '.join(parts)}"
    elif report.run.failures or report.run.interrupted:
        yield "trials executed: none"
    else:
        yield "trials executed: none: every result was in the store"
    counts = ", ".join(kind.format(number) for kind, number in report.evaluations.items())
    trainings = report.run.executed.get("train", 0)
    yield f"trainings {trainings}; evaluations: {counts}; wall time {report.seconds:.0f} s"
