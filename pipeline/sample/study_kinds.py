"""The studies: walks over a scene, what is measured on them, and how it is shown."""

from collections.abc import Callable, Collection, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.config import ConfigError
from pipeline.diffusion import latents
from pipeline.diffusion.randomness import NoiseStream
from pipeline.sample.study_extension import extension
from pipeline.sample.study_figures import Group, Panel, image_sheet, step_chart
from pipeline.sample.study_findings import MAX_ROWS, PARTNER, Findings, Progress, pixels
from pipeline.sample.study_measures import Array, Trend, distances, frequency_centroid, mean_of, trend
from pipeline.sample.study_paths import Conditions, exchange_images
from pipeline.sample.study_scene import Scene

MAX_COLUMNS = 12
NUM_LEVELS_SHOWN = 8
NUM_WEIGHTS = 9


def forward(scene: Scene, num_images: int, progress: Progress) -> Findings:
    """Test images and what the forward process makes of them at up to eight levels, with the noise it adds, if any."""
    x_0, _ = scene.test_images(num_images)
    num_levels = scene.process.num_levels or NUM_LEVELS_SHOWN
    shown = _spread(num_levels, NUM_LEVELS_SHOWN)
    times = [(k + 1) / num_levels for k in shown]
    eps = NoiseStream(scene.seed).normal(range(len(x_0)), 0, "forward", tuple(x_0.shape[1:])).to(x_0)
    strips = []
    for t in times:
        strips.append(scene.process.corrupt(x_0, torch.full((len(x_0),), t, dtype=torch.float64), eps))
        progress(len(strips), len(times))
    moved = distances(torch.stack(strips), x_0)
    columns = torch.stack([x_0, *strips], dim=1)
    labels = ["image", *(scene.level(t) for t in times)]
    sheet = image_sheet(
        [Group(pixels(columns[:MAX_ROWS]), labels)],
        title="Forward process on test images",
        caption=scene.system_name,
        xlabel=scene.level_name,
    )
    numbers = {
        "num_images": len(x_0),
        "times": times,
        "distance_to_image": [mean_of(row).to_json() for row in moved],
    }
    return Findings(numbers, {"times": np.array(times), "distance": moved}, {"sheet.png": sheet})


def sequence(scene: Scene, num_images: int, progress: Progress) -> Findings:
    """The states from x_T to the image, of the first images of a sample block with the same seed."""
    paths = []
    for rows in scene.batches(num_images):
        paths.append(scene.walk(rows).path(scene.start(rows), scene.prior_conditions(rows)).cpu())
        progress(rows[-1] + 1, num_images)
    path = torch.cat(paths, dim=1)
    moved = distances(path[1:], path[:-1])
    labels = [scene.level(float(t)) for t in scene.times]
    labels += ["image"] * (len(path) - len(labels))
    shown = _spread(len(path), MAX_COLUMNS)
    sheet = image_sheet(
        [Group(pixels(path[shown][:, :MAX_ROWS].transpose(0, 1)), [labels[i] for i in shown])],
        title="Generative sequence from x_T to the image",
        caption=scene.system_name,
        xlabel=scene.level_name,
    )
    numbers = {"num_images": num_images, "step_distance": [mean_of(row).to_json() for row in moved]}
    arrays = {"images": path[-1].float().numpy(), "step_distance": moved}
    return Findings(numbers, arrays, {"sheet.png": sheet})


def exchange(
    scene: Scene, num_images: int, progress: Progress, *, windows: Sequence[tuple[int, int]] | None
) -> Findings:
    """Images with the source's code at one step, or in a window of steps, and the target's code at all others.

    Per step: the sensitivity, mean over pairs of ||x_0(exchanged) - x_0(target)||, and the frequency centroid of that
    difference. Target i is image i of a sample block, its source has the codes of image `PARTNER` + i and the x_T of i.
    """
    num_steps = scene.num_steps
    spans = _windows(windows, num_steps)
    chosen: list[Collection[int]] = [
        *((step,) for step in range(num_steps)),
        *(latents.window(*span) for span in spans),
    ]
    found = []
    for rows in scene.batches(num_images):
        target, source = scene.codes(rows), scene.codes([row + PARTNER for row in rows])

        def between(
            steps: Collection[int], rows: list[int] = rows, source: Any = source, target: Any = target
        ) -> Conditions:
            def code(step: int) -> Tensor:
                latent = latents.exchange(source(step), target(step), steps)(step).latent
                assert latent is not None
                return latent

            return scene.conditions(rows, code)

        found.append(exchange_images(scene.walk(rows), scene.start(rows), between, chosen))
        progress(rows[-1] + 1, num_images)
    target, source = torch.cat([part.target for part in found]), torch.cat([part.source for part in found])
    exchanged = torch.cat([part.exchanged for part in found], dim=1)
    distance, centroid = distances(exchanged, target), frequency_centroid(exchanged - target)
    whole, own = mean_of(distances(source, target)), (distance[:num_steps], centroid[:num_steps])
    rise = trend(own[1])
    starts = [scene.level(float(t)) for t in scene.times[:-1]]
    of_spans = [f"{scene.level(float(scene.times[a]))}-{scene.level(float(scene.times[b]))}" for a, b in spans]
    shown = _spread(num_steps, MAX_COLUMNS)
    ends = (target[:MAX_ROWS, None], source[:MAX_ROWS, None])
    figures = {
        name: image_sheet(
            [
                Group(pixels(ends[0]), ["target"]),
                Group(pixels(exchanged[columns][:, :MAX_ROWS].transpose(0, 1)), labels, heading),
                Group(pixels(ends[1]), ["source"]),
            ],
            title="Latent exchange",
            caption=scene.system_name,
            xlabel=f"{scene.level_name} {place}",
        )
        for name, columns, labels, heading, place in (
            (
                "sheet.png",
                shown,
                [starts[i] for i in shown],
                "source's code at one step, target's elsewhere",
                "at which the exchanged step starts",
            ),
            (
                "windows.png",
                [num_steps + i for i in range(len(spans))],
                of_spans,
                "source's code in a window",
                "between which codes are exchanged",
            ),
        )
        if columns
    }
    figures["sensitivity.png"] = _sensitivity_chart(scene, *own, whole=whole.value, rise=rise, labels=starts)
    numbers = {
        "num_pairs": num_images,
        "times": [float(t) for t in scene.times[:-1]],
        "whole_exchange": whole.to_json(),
        "sensitivity": [mean_of(row).to_json() for row in own[0]],
        "centroid": [mean_of(row).to_json() for row in own[1]],
        "centroid_trend": rise.to_json(),
        "sensitivity_trend": trend(own[0]).to_json(),
        "windows": [
            {"first": a, "stop": b, "sensitivity": mean_of(far).to_json(), "centroid": mean_of(fine).to_json()}
            for (a, b), far, fine in zip(spans, distance[num_steps:], centroid[num_steps:], strict=True)
        ],
    }
    arrays = {
        "distance": own[0],
        "centroid": own[1],
        "window_distance": distance[num_steps:],
        "window_centroid": centroid[num_steps:],
        "target": target.cpu().float().numpy(),
        "source": source.cpu().float().numpy(),
    }
    return Findings(numbers, arrays, figures)


def interpolation(scene: Scene, num_images: int, progress: Progress) -> Findings:
    """Images from codes on the arc between two, all from the x_T of the first; image i goes to `PARTNER` + i."""
    weights = np.linspace(0.0, 1.0, NUM_WEIGHTS)
    parts = []
    for rows in scene.batches(num_images):
        a, b = scene.codes(rows), scene.codes([row + PARTNER for row in rows])
        walk, x_T = scene.walk(rows), scene.start(rows)

        def at(column: int, a: Any = a, b: Any = b) -> Callable[[int], Tensor]:
            return lambda step: latents.interpolate(a(step), b(step), weights.tolist())[column]

        images = [walk.image(x_T, scene.conditions(rows, at(column))) for column in range(len(weights))]
        parts.append(torch.stack(images, dim=1).cpu())
        progress(rows[-1] + 1, num_images)
    path = torch.cat(parts)
    moved = distances(path[:, 1:].transpose(0, 1), path[:, :-1].transpose(0, 1))
    ends = distances(path[:, -1], path[:, 0])
    sheet = image_sheet(
        [Group(pixels(path[:MAX_ROWS]), [f"{w:.3g}" for w in weights])],
        title="Interpolation of the latent code",
        caption=scene.system_name,
        xlabel="place on the arc from one code to the other",
    )
    numbers = {
        "num_pairs": num_images,
        "weights": weights.tolist(),
        "distance_between_neighbours": [mean_of(row).to_json() for row in moved],
        "distance_between_ends": mean_of(ends).to_json(),
    }
    arrays = {"neighbour_distance": moved, "end_distance": ends, "images": path[:MAX_ROWS].float().numpy()}
    return Findings(numbers, arrays, {"sheet.png": sheet})


def reconstruction(scene: Scene, num_images: int, progress: Progress) -> Findings:
    """Test images from x_T = D(x_0, T) with codes of the encoder, which sees the true D(x_0, s) at every step.

    The error of an image is the root mean square over its pixels, in data units; `prior` is that of the same x_T with
    codes from the prior, which know nothing of the image.
    """
    x_0, classes = scene.test_images(num_images)
    parts = []
    for rows in scene.batches(len(x_0)):
        own = x_0[rows]
        x_T = scene.process.to_data(scene.process.degrade(scene.process.to_components(own), 1.0))
        own_classes = None if classes is None else classes[rows]
        encoded = scene.encoded_walk(rows, own).image(x_T, scene.conditions(rows, None, own_classes))
        prior = scene.walk(rows).image(x_T, scene.conditions(rows, scene.codes(rows), own_classes))
        parts.append(torch.stack([x_T, encoded, prior]))
        progress(rows[-1] + 1, len(x_0))
    made = torch.cat(parts, dim=1)
    _, error, prior = distances(made, x_0) / np.sqrt(x_0[0].numel())
    columns = torch.stack([x_0, *made], dim=1)
    sheet = image_sheet(
        [Group(pixels(columns[:MAX_ROWS]), ["image", "x_T", "encoder", "prior"])],
        title="Reconstruction of test images",
        caption=f"{scene.system_name} · rms error (left): mean {error.mean():.3f}, with prior codes {prior.mean():.3f}",
        row_labels=[f"{value:.3f}" for value in error[:MAX_ROWS]],
        xlabel="from x_T, with codes of the encoder and of the prior",
    )
    numbers = {"num_images": len(x_0), "error": mean_of(error).to_json(), "prior": mean_of(prior).to_json()}
    return Findings(numbers, {"error": error, "prior": prior}, {"sheet.png": sheet})


STUDIES: dict[str, Callable[..., Findings]] = {
    "forward": forward,
    "sequence": sequence,
    "exchange": exchange,
    "interpolation": interpolation,
    "reconstruction": reconstruction,
    "extension": extension,
}


def _sensitivity_chart(
    scene: Scene, distance: Array, centroid: Array, *, whole: float | None, rise: Trend, labels: Sequence[str]
) -> bytes:
    note = "no difference at any step"
    if rise.slope is not None:
        spread = "" if rise.slope_se is None else f" ± {rise.slope_se:.2g}"
        rank = "" if rise.spearman is None else f", Spearman {rise.spearman:.2f}"
        note = f"{rise.verdict}: {rise.slope:+.2g}{spread} per step{rank}"
    reference = None if whole is None else (whole, "exchanged at all steps")
    return step_chart(
        [
            _panel("distance to the target", distance, reference=reference),
            _panel("frequency centroid\n(half cycles per image)", centroid, note=note),
        ],
        labels,
        title="What the code of one step decides",
        caption=f"{scene.system_name} · {distance.shape[1]} pairs, mean ± standard error",
        xlabel=f"{scene.level_name} at which the exchanged step starts",
    )


def _panel(ylabel: str, values: Array, *, reference: tuple[float, str] | None = None, note: str = "") -> Panel:
    means = [mean_of(row) for row in values]

    def known(numbers: Sequence[float | None]) -> Array:
        return np.array([np.nan if value is None else value for value in numbers], np.float64)

    return Panel(ylabel, known([m.value for m in means]), known([m.se for m in means]), reference, note)


def _windows(windows: Sequence[tuple[int, int]] | None, num_steps: int) -> list[tuple[int, int]]:
    """The windows asked for, or three equal parts (none for fewer than three steps).

    Raises:
        ConfigError: a window ends behind the last step.
    """
    if windows is None:
        cuts = [round(num_steps * part / 3) for part in range(4)]
        return list(pairwise(cuts)) if num_steps >= 3 else []
    for first, stop in windows:
        if stop > num_steps:
            raise ConfigError(f"windows: [{first}, {stop}) ends behind the sampler's {num_steps} steps")
    return list(windows)


def _spread(count: int, largest: int) -> list[int]:
    """At most `largest` of the indices 0 ... count - 1, evenly spread, both ends among them."""
    return np.unique(np.linspace(0, count - 1, min(count, largest)).round().astype(int)).tolist()
