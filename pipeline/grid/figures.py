"""Pictures of a grid as files: sample sheets and the figures of its studies, one folder per row, and GUD studies."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from pipeline.grid.plan import Plan
from pipeline.grid.study_drawings import study_drawings
from pipeline.store import Store

STUDY = "study"
"""Folder of the figures that put rows of the component-wise schedules together."""


def write_figures(plan: Plan, store: Store, folder: str | Path) -> Iterator[Path]:
    """Copies what the store has into `folder/<row>/`, and yields each file.

    `samples.png` is the first sheet of a row's images; a study `<kind>` gives `<kind>-<figure>.png` and its numbers as
    `<kind>-study.json`. Rows of the component-wise schedules of GUD together make the figures in `folder/study/`, each
    a PNG with its arrays as .npz beside it.
    """
    for cell in plan.cells:
        target = Path(folder) / re.sub(r"[^A-Za-z0-9._=-]+", "_", cell.name)
        block = store.find(cell.tasks.samples[0].key) if cell.tasks.samples else None
        if block is not None and "preview.png" in block.files:
            yield _copied(block.path("preview.png"), target / "samples.png")
        for task in cell.tasks.studies:
            study = store.find(task.key)
            if study is None:
                continue
            for name in (*study.meta["figures"], "study.json"):
                yield _copied(study.path(name), target / f"{study.meta['kind']}-{name}")
    for drawing in study_drawings(plan, store):
        yield from drawing.write(Path(folder) / STUDY)


def _copied(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    return target
