"""The study of image extension: test images continued to the right from their left half, and panoramas."""

from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.diffusion.extension import extend, num_moving_steps, roll
from pipeline.sample.study_figures import Group, image_sheet
from pipeline.sample.study_findings import MAX_ROWS, PARTNER, Findings, Progress, pixels
from pipeline.sample.study_measures import Array, distances, mean_of
from pipeline.sample.study_scene import Scene
from pipeline.shards.sheets import MIN_TILE

NUM_CONTINUATIONS = 4
NUM_WIDTHS_ADDED = 2
"""Columns of a panorama beyond its first image, in widths of an image."""


def extension(scene: Scene, num_images: int, progress: Progress) -> Findings:
    """Test images continued from their left half, several times each, and panoramas that begin with a test image.

    Continuation j of image i has the draws of image j * `PARTNER` + i, its panorama those of the j after the last.
    Errors are mean squares over pixels, in data units: `known_error` of the left half, `continuation_error` of the
    right half against the image's own, and `other_error` of another test image in its place. Distances are Euclidean,
    between right halves; where continuations are samples of the data's law, theirs is what is left open by the left
    half, as that between images is what is open without it.
    """
    x_0, classes = scene.test_images(num_images)
    assert scene.sampler is not None
    width = x_0.shape[-1]
    num_known, shift = width // 2, max(1, width // 4)
    shown = x_0[:MAX_ROWS]
    num_walks = -(-len(x_0) // scene.batch) * NUM_CONTINUATIONS
    made: list[Tensor] = []
    for j in range(NUM_CONTINUATIONS):
        parts: list[Tensor] = []
        for rows in scene.batches(len(x_0)):
            parts.append(_continued(scene, x_0[rows], rows, j, classes, num_known))
            progress(len(made) * num_walks // NUM_CONTINUATIONS + len(parts), num_walks + 1)
        made.append(torch.cat(parts))
    panorama = torch.cat([_panorama(scene, x_0[rows], rows, classes, shift) for rows in scene.batches(len(shown))])
    progress(num_walks + 1, num_walks + 1)
    x_0, found = x_0.cpu(), torch.stack(made)
    known_error = _mean_squares(found[..., :num_known], x_0[..., :num_known])
    new, own = found[..., num_known:], x_0[..., num_known:]
    error, other = _mean_squares(new, own), own.roll(1, 0)
    apart = np.stack([distances(new[i], new[j]) for i, j in combinations(range(NUM_CONTINUATIONS), 2)])
    kernel, final = scene.sampler.kernel.build(), int(scene.sampler.final == "denoise")
    late = num_moving_steps(scene.process, scene.times, num_known)
    has_others = len(x_0) > 1
    numbers = {
        "num_images": len(x_0),
        "num_known_columns": num_known,
        "known_error": mean_of(known_error.mean(axis=0)).to_json(),
        "continuation_error": mean_of(error.mean(axis=0)).to_json(),
        "other_error": mean_of(_mean_squares(other, own)).to_json() if has_others else None,
        "distance_between_continuations": mean_of(apart.mean(axis=0)).to_json(),
        "distance_between_images": mean_of(distances(other, own)).to_json() if has_others else None,
        "evaluations": kernel.nfe(late) + final,
        "evaluations_of_a_sample": kernel.nfe(scene.num_steps) + final,
        "panorama_columns": panorama.shape[-1],
        "panorama_shift": shift,
    }
    arrays = {
        "known_error": known_error,
        "error": error,
        "pair_distance": apart,
        "continuations": found[:, :MAX_ROWS].float().numpy(),
        "panorama": panorama.float().numpy(),
    }
    figures = {
        "sheet.png": _sheet(scene, shown.cpu(), found[:, :MAX_ROWS], num_known),
        "panorama.png": image_sheet(
            [Group(_enlarged(pixels(panorama[:, None])), [f"{panorama.shape[-1]} columns, the first {width} given"])],
            title="Panoramas that begin with a test image",
            caption=f"{scene.system_name} · windows move by {shift}",
        ),
    }
    return Findings(numbers, arrays, figures)


def _continued(scene: Scene, x: Tensor, rows: list[int], number: int, classes: Tensor | None, num_known: int) -> Tensor:
    """Continuation `number` of images, on the CPU."""
    assert scene.sampler is not None
    assert scene.predictor is not None
    return extend(
        scene.process,
        scene.sampler.kernel.build(),
        scene.predictor,
        x,
        num_known,
        scene.times,
        noise=scene.noise([row + number * PARTNER for row in rows]),
        cond=scene.conditions(rows, None, None if classes is None else classes[rows]),
        final=scene.sampler.final,
    ).cpu()


def _panorama(scene: Scene, x: Tensor, rows: list[int], classes: Tensor | None, shift: int) -> Tensor:
    """Panoramas that begin with images, on the CPU."""
    assert scene.sampler is not None
    assert scene.predictor is not None
    return roll(
        scene.process,
        scene.sampler.kernel.build(),
        scene.predictor,
        x,
        NUM_WIDTHS_ADDED * x.shape[-1],
        shift,
        scene.times,
        noise=scene.noise([row + NUM_CONTINUATIONS * PARTNER for row in rows]),
        cond=scene.conditions(rows, None, None if classes is None else classes[rows]),
        final=scene.sampler.final,
    ).cpu()


def _sheet(scene: Scene, images: Tensor, continuations: Tensor, num_known: int) -> bytes:
    """Images `(rows, *shape)`, what is given of them, and their continuations `(continuations, rows, *shape)`."""
    given = images.clone()
    given[..., num_known:] = 0.0
    return image_sheet(
        [
            Group(pixels(images[:, None]), ["image"]),
            Group(pixels(given[:, None]), ["given"]),
            Group(
                pixels(continuations.transpose(0, 1)),
                [str(j + 1) for j in range(len(continuations))],
                "continuations",
            ),
        ],
        title="Test images continued from their left half",
        caption=scene.system_name,
    )


def _mean_squares(images: Tensor, others: Tensor) -> Array:
    """Mean square over pixels of every difference, shapes as for `distances`."""
    return distances(images, others) ** 2 / others[0].numel()


def _enlarged(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Long images `(rows, columns, C, H, W)` whose height is that of a tile."""
    factor = max(1, -(-MIN_TILE // images.shape[-2]))
    return images.repeat(factor, axis=-2).repeat(factor, axis=-1)
