"""The terminal stage: which end a degradation has, with which colours, whatever the shards."""

import hashlib
import itertools
import json
import math
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config import DataError, parse
from pipeline.diffusion import build_process
from pipeline.diffusion.processes import build_terminal, fitted_terminal
from pipeline.diffusion.processes.degradations import DEGRADATIONS
from pipeline.ingest import statistics, terminal
from pipeline.ingest.statistics import StatisticsSpec
from pipeline.ingest.terminal import TerminalFit, TerminalMoments, terminal_moments
from pipeline.shards import to_float
from tests.shard_cases import FolderArtifact, quiet, random_images, written

SHAPE = (3, 16, 16)
GOLDEN = "363d1d504b0c1547b05510887b89842e0f61dbd8b16661e92027e9c86161ae7a"


def images(count: int = 70) -> np.ndarray:
    """Noise of little contrast on a colour per image, the channels of which are correlated."""
    rng = np.random.default_rng(0)
    colours = rng.integers(40, 200, (count, 1, 1, 1)) + rng.integers(-30, 30, (count, 3, 1, 1))
    return (colours + random_images(count, shape=SHAPE, levels=20)).clip(0, 255).astype(np.uint8)


def fit_of(name: str, **options: Any) -> TerminalFit:
    return parse(TerminalFit, {"process": DEGRADATIONS[name].process({"num_levels": 4, **options})})


def run(folder: Path, name: str, *, data: np.ndarray | None = None, **options: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    artifact = written(folder, images() if data is None else data)
    return terminal.run(fit_of(name, **options), {"dataset": artifact}, FolderArtifact(folder), quiet)


def degraded(name: str, data: np.ndarray, **options: Any) -> torch.Tensor:
    process = build_process(fit_of(name, **options).process, SHAPE)
    x = torch.from_numpy(to_float(data, 256)).double()
    return process.to_data(process.degrade(process.to_components(x), 1.0))


KINDS = {"zero": "zeros", "flat": "flat_colour", "images": "training_images", "gaussian": "gaussian"}


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_every_degradation_ends_as_its_entry_says(tmp_path: Path, name: str) -> None:
    assert run(tmp_path, name)["kind"] == KINDS[DEGRADATIONS[name].terminal]


@pytest.mark.parametrize("name", ["blur", "pixelate", "pixelate_nearest", "kernel_blur_reflect"])
def test_colours_are_those_of_the_degraded_images(tmp_path: Path, name: str) -> None:
    meta = run(tmp_path, name)
    colours = degraded(name, images()).mean(dim=(2, 3)).numpy()
    np.testing.assert_allclose(meta["mean"], colours.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(meta["covariance"], np.cov(colours.T, bias=True), atol=1e-12)
    assert meta["flatness"] < 1e-6
    assert meta["count"] == 70
    assert not meta["is_constant"]


def test_colours_of_top_left_pixels_are_not_those_of_means(tmp_path: Path) -> None:
    nearest, mean = (run(tmp_path / name, name)["covariance"] for name in ("pixelate_nearest", "pixelate"))
    assert not np.allclose(nearest, mean, rtol=1e-3)


def test_a_blur_that_ends_early_keeps_its_images(tmp_path: Path) -> None:
    meta = run(tmp_path, "blur", blur_max=4.0)
    last = degraded("blur", images(), blur_max=4.0)
    assert meta["kind"] == "training_images"
    assert meta["flatness"] == pytest.approx(float((last - last.mean(dim=(2, 3), keepdim=True)).square().mean().sqrt()))
    x = torch.from_numpy(to_float(images(), 256)).double()
    assert meta["contrast"] == pytest.approx(float((x - x.mean(dim=(2, 3), keepdim=True)).square().mean().sqrt()))


def test_the_published_blur_counts_as_flat(tmp_path: Path) -> None:
    """It leaves 0.7 % of the lowest frequency."""
    meta = run(tmp_path, "blur", levels="vcd")
    assert meta["kind"] == "flat_colour"
    assert 0 < meta["flatness"] < 0.01 * meta["contrast"]


@pytest.mark.parametrize(("name", "value"), [("black_blur", -1.0), ("fade", -1.0)])
def test_a_constant_end_is_told(tmp_path: Path, name: str, value: float) -> None:
    meta = run(tmp_path, name)
    assert meta["is_constant"]
    np.testing.assert_allclose(meta["mean"], [value] * 3)
    np.testing.assert_allclose(meta["covariance"], np.zeros((3, 3)), atol=1e-12)


def test_equal_images_have_a_colour_but_no_constant_end_of_the_process(tmp_path: Path) -> None:
    meta = run(tmp_path, "blur", data=np.full((9, *SHAPE), 77, np.uint8))
    assert (meta["kind"], meta["is_constant"]) == ("flat_colour", False)
    np.testing.assert_allclose(meta["covariance"], np.zeros((3, 3)), atol=1e-12)


def test_draws_of_the_fit_have_the_colours_of_the_degraded_images(tmp_path: Path) -> None:
    meta = run(tmp_path, "blur")
    process = build_process(fit_of("blur").process, SHAPE)
    spec = fitted_terminal(json.loads(json.dumps(meta)), 0.0)
    assert spec is not None
    colours = build_terminal(spec, process).draw(range(4000), 0)[:, :, 0, 0].double()
    expected = degraded("blur", images()).mean(dim=(2, 3))
    torch.testing.assert_close(colours.mean(0), expected.mean(0), rtol=0, atol=0.03)
    torch.testing.assert_close(torch.cov(colours.T), torch.cov(expected.T, correction=0), rtol=0.1, atol=0)


def parts() -> list[TerminalMoments]:
    process = build_process(fit_of("blur", blur_max=4.0).process, SHAPE)
    x = torch.from_numpy(to_float(images(), 256))
    return [terminal_moments(part, process) for part in x.split([13, 20, 30, 7])]


def test_shards_merge_in_any_order_to_the_same_bits() -> None:
    results = set()
    for order in itertools.permutations(parts()):
        merged = reduce(TerminalMoments.merged, order)
        results.add((tuple(merged.means()), merged.distance))
    assert len(results) == 1


def test_the_map_may_give_the_shards_in_any_order(tmp_path: Path) -> None:
    artifact = written(tmp_path, images())
    maps = [lambda function, jobs: map(function, jobs), lambda function, jobs: [function(job) for job in jobs][::-1]]
    metas = [
        terminal.run(fit_of("blur"), {"dataset": artifact}, FolderArtifact(tmp_path), quiet, shard_map=one)
        for one in maps
    ]
    assert metas[0] == metas[1]


def test_chunks_inside_a_shard_change_nothing_but_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = reduce(TerminalMoments.merged, parts()).means()
    monkeypatch.setattr(terminal, "_CHUNK_ELEMENTS", 5 * math.prod(SHAPE))
    np.testing.assert_allclose(reduce(TerminalMoments.merged, parts()).means(), whole, rtol=1e-13)


def test_progress_counts_shards(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    artifact = written(tmp_path, images())
    report = lambda done, total: seen.append((done, total))  # noqa: E731
    terminal.run(fit_of("blur"), {"dataset": artifact}, FolderArtifact(tmp_path), report)
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_a_centre_from_statistics_is_the_end_of_a_fade(tmp_path: Path) -> None:
    artifact = written(tmp_path, images())
    meta = statistics.run(StatisticsSpec(), {"dataset": artifact}, FolderArtifact(tmp_path), quiet)
    process = DEGRADATIONS["black"].process({"num_levels": 4}) | {"centre": "mean"}
    inputs = {"dataset": artifact, "statistics": FolderArtifact(tmp_path, meta)}
    spec = parse(TerminalFit, {"process": process})
    fit = terminal.run(spec, inputs, FolderArtifact(tmp_path), quiet)
    assert (fit["kind"], fit["is_constant"]) == ("zeros", True)


def test_vectors_are_one_channel(tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    artifact = written(tmp_path, points, quantisation=None)
    tree = {"kind": "spectral", "basis": "dct", "schedule": {"kind": "heat", "num_levels": 3, "with_flat_end": True}}
    meta = terminal.run(parse(TerminalFit, {"process": tree}), {"dataset": artifact}, FolderArtifact(tmp_path), quiet)
    assert meta["kind"] == "flat_colour"
    np.testing.assert_allclose(meta["mean"], [points.mean()], atol=1e-6)


def test_an_empty_training_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no training samples"):
        run(tmp_path, "blur", data=np.zeros((0, *SHAPE), np.uint8))


def test_samples_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    points = np.ones((10, 4), np.float32)
    points[3, 1] = np.nan
    artifact = written(tmp_path, points, quantisation=None)
    spec = parse(TerminalFit, {"process": {"kind": "spectral", "schedule": {"kind": "dim", "num_levels": 3}}})
    with pytest.raises(DataError, match="not finite"):
        terminal.run(spec, {"dataset": artifact}, FolderArtifact(tmp_path), quiet)


def test_another_output_needs_another_stage_version(tmp_path: Path) -> None:
    meta = run(tmp_path, "blur", blur_max=4.0)
    rounded = json.dumps(json.loads(json.dumps(meta), parse_float=lambda text: f"{float(text):.9e}"), sort_keys=True)
    assert (terminal.STAGE_VERSION, hashlib.sha256(rounded.encode()).hexdigest()) == (1, GOLDEN)
