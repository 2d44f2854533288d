"""The amortisation gap of a study: rows of one network for all points against rows of networks of their own."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from pipeline.evaluate.comparison import paired_difference
from pipeline.grid.study_points import Family, Place, Settings, StudyPoint, labels, mean_over_seeds
from pipeline.report.gud_gap import Gap

FAMILIES: tuple[Family, ...] = ("elbo", "nll")
EQUAL = 0.02
"""Budgets that differ by less are equal: steps are whole numbers."""


def gaps(points: Sequence[StudyPoint]) -> list[Gap]:
    """Differences, image by image, of the rows that share task, point and seed; single trainings, then their means."""
    single = list(_single(points))
    means: list[Gap] = []
    for key in dict.fromkeys(_without_seed(gap) for gap in single):
        same = [gap for gap in single if _without_seed(gap) == key]
        difference, se, count = mean_over_seeds([(gap.difference, gap.se) for gap in same])
        num_images = max(gap.num_images for gap in same)
        means.append(replace(key, difference=difference, se=se, num_images=num_images, num_seeds=count))
    return [*single, *means]


def _single(points: Sequence[StudyPoint]) -> Iterator[Gap]:
    finished = [point for point in points if point.result is not None]
    amortised = [point for point in finished if point.settings["training"] == "amortised"]
    own = [point for point in finished if point.settings["training"] == "per_cell"]
    tasks = _task_labels([*amortised, *own])
    boxes = {point.settings["amortise"] for point in amortised}
    for family in FAMILIES:
        seen: set[tuple[object, ...]] = set()
        for left in amortised:
            for right in own:
                if (left.task, left.place, left.seed) != (right.task, right.place, right.seed):
                    continue
                assert left.result is not None
                assert right.result is not None
                found = paired_difference(left.result, right.result, family)
                pair = (left.settings["amortise"], left.images, right.images, left.task, left.place, left.seed)
                if found is None or pair in seen:  # other samplers have the same likelihood
                    continue
                seen.add(pair)
                box = f" (one network for {left.settings['amortise']})" if len(boxes) > 1 else ""
                yield Gap(
                    task=tasks[left.task] + box,
                    budget=budget(left, right, points),
                    softness_a=left.place[0],
                    ordering_r=left.place[1],
                    metric=family,
                    seed=left.seed,
                    difference=found.difference,
                    se=found.se,
                    num_images=_num_images(left, right, family),
                )


def budget(amortised: StudyPoint, own: StudyPoint, points: Sequence[StudyPoint]) -> str:
    """How much a network of its own was trained, against the amortised one, in words.

    Equal total compute means: all networks that were trained so, one per point, took together what the one took; or
    they would have, with one for every point that it serves.
    """
    if not amortised.images or not own.images:
        return "unknown compute"
    share = own.images / amortised.images
    if abs(share - 1.0) < EQUAL:
        return "equal compute per network"

    def places(images: int, training: str) -> set[Place]:
        rows = (p for p in points if (p.settings["training"], p.task, p.images) == (training, own.task, images))
        return {point.place for point in rows}

    for count in (len(places(own.images, "per_cell")), len(places(amortised.images, "amortised"))):
        if abs(share * count - 1.0) < EQUAL:
            return f"equal total compute ({count} networks)"
    return f"{share:.3g} x the compute per network"


def _without_seed(gap: Gap) -> Gap:
    return replace(gap, seed=None, difference=0.0, se=0.0, num_images=0)


def _task_labels(points: Sequence[StudyPoint]) -> dict[Settings, str]:
    """Tasks in words, without how their networks were trained."""
    words: dict[Settings, str] = {}
    tasks = list(dict.fromkeys(point.task for point in points))
    with_training: dict[Settings, Settings] = {(*task, ("training", "amortised")): task for task in tasks}
    for settings, text in labels(list(with_training)).items():
        words[with_training[settings]] = text.replace(", amortised", "")
    return words


def _num_images(left: StudyPoint, right: StudyPoint, family: Family) -> int:
    """Images that both rows scored."""
    indices = [getattr(point.result, f"{family}_index") for point in (left, right)]
    return len(set(indices[0].tolist()) & set(indices[1].tolist()))
