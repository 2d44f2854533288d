"""Pictures of rows in a report: first images, and those that are nearest to a training image, beside it."""

import io
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.grid.plan import Cell
from pipeline.grid.tasks import Task
from pipeline.report.sheets import NUM_COLUMNS
from pipeline.sample.previews import NUM_PREVIEWS
from pipeline.sample.stage import SPLIT
from pipeline.shards import read_shard, split_index, to_uint8
from pipeline.shards.sheets import GAP, contact_sheet, png_bytes
from pipeline.store import Artifact, Store


def first_block(samples: Sequence[Task], store: Store) -> Artifact | None:
    """The first block of a row's images, where it has a picture."""
    block = store.find(samples[0].key) if samples else None
    return block if block is not None and "preview.png" in block.files else None


def preview_of(block: Artifact) -> bytes:
    """The picture of a first block: a sheet of its first images, or the density of its points."""
    return block.path("preview.png").read_bytes()


def has_images(block: Artifact) -> bool:
    """Whether a block holds images, not points."""
    return len(block.meta["shape"]) == 3


def num_shown(block: Artifact) -> int:
    """Samples behind the picture of a first block."""
    count = int(block.meta["count"])
    return min(count, NUM_PREVIEWS) if has_images(block) else count


def first_line(sheet: bytes, num_images: int, *, is_image: bool) -> bytes:
    """PNG of the first ten images of a contact sheet; a density picture of points stays as it is."""
    if not is_image:
        return sheet
    picture = Image.open(io.BytesIO(sheet))
    num_lines = -(-num_images // NUM_COLUMNS)
    height = (picture.height - GAP) // num_lines + GAP
    buffer = io.BytesIO()
    picture.crop((0, 0, picture.width, height)).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def nearest_sheet(cell: Cell, pairs: Sequence[dict[str, Any]], store: Store) -> bytes | None:
    """PNG of the images that are nearest to a training image, nearest first: ten in a line, the training images below.

    Args:
        cell: of the row.
        pairs: {image, training} of the row's protocol, indices in the set and in the training split.
        store: has the images.

    Returns:
        None where there are no pairs, no images or no blocks in the store.
    """
    dataset = store.find(cell.tasks.dataset.key)
    blocks = [store.find(task.key) for task in cell.tasks.samples]
    if not pairs or dataset is None or None in blocks or not has_images(dataset):
        return None
    own = [block for block in blocks if block is not None]
    width = min(len(pairs), NUM_COLUMNS)
    shown = pairs[: len(pairs) // width * width]
    generated = _chosen([(block, SPLIT) for block in own], [int(pair["image"]) for pair in shown])
    training = _chosen([(dataset, "train")], [int(pair["training"]) for pair in shown])
    lines: list[NDArray[np.uint8]] = []
    for start in range(0, len(shown), width):
        lines += [generated[start : start + width], training[start : start + width]]
    levels = to_uint8(np.concatenate(lines), dataset.meta["quantisation"])
    return png_bytes(contact_sheet(levels, num_columns=width))


def _chosen(splits: Iterable[tuple[Artifact, str]], wanted: Sequence[int]) -> NDArray[np.uint8]:
    """Images by their index in the splits one after another; only shards that hold one of them are read."""
    found: dict[int, NDArray[np.uint8]] = {}
    first = 0
    for artifact, split in splits:
        index = split_index(artifact, split)
        starts = accumulate((entry.samples for entry in index.shards), initial=first)
        for entry, start in zip(index.shards, starts, strict=False):
            inside = [i for i in wanted if start <= i < start + entry.samples]
            if inside:
                shard = read_shard(artifact.path(entry.name), entry, index=index, first_index=start - first)
                found |= {i: shard.images[i - start] for i in inside}
        first += index.count
    return np.stack([found[i] for i in wanted])
