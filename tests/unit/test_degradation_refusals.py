"""Degradations, baselines and images that do not go together: refused when the grid is planned, with the reason."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import ConfigError, Document
from pipeline.grid import make_plan
from pipeline.grid.plan import Plan
from pipeline.grid.spec import grid_from
from tests.grid_doubles import CommandLine
from tests.grids import TINY, merged, tiny_grid

GOOD = {"baseline": "ddpm"}

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "T too small for linear betas": (
        {"baseline": "ddpm", "schedule": "linear", "num_levels": 20},
        "linear betas need num_levels of at least 21, found 20",
    ),
    "T too small for a published fade": (
        {"baseline": "sequential", "degradation": {"kind": "black_blur", "fade": "vcd_cosine"}, "num_levels": 1},
        "fade vcd_cosine needs num_levels of at least 2, found 1",
    ),
    "T too small for published blur levels": (
        {"baseline": "cold", "degradation": {"kind": "blur", "levels": "vcd"}, "num_levels": 1},
        "heat levels vcd need num_levels of at least 2, found 1",
    ),
    "nothing to roll out": (
        {"baseline": "vcd", "num_levels": 1},
        "vcd trains on its own earlier steps: with num_levels = 1 there are none",
    ),
    "images too small for published pixelation": (
        {"baseline": "cold", "degradation": {"kind": "pixelate_nearest", "levels": "vcd"}, "num_levels": 4},
        "pixel",
    ),
    "more block sizes than there are": (
        {"baseline": "cold", "degradation": "pixelate_nearest", "num_levels": 30},
        "pixelate_nearest has 4 levels that differ on 8 pixels, found num_levels 30",
    ),
    "grey images have no colour": ({"baseline": "cold", "degradation": "decolor"}, "3 channels"),
    "vcd without encoder": ({"baseline": "vcd", "latent_dim": 0}, "vcd needs its encoder"),
    "rollout and jitter": ({"baseline": "vcd", "jitter": 0.01}, "state combine: true to have both"),
    "eps on a deterministic degradation": (
        {"baseline": "cold", "degradation": "blur", "prediction": "eps"},
        "cold cannot take prediction = eps",
    ),
    "ancestral noise on a deterministic degradation": (
        {"baseline": "ddpm", "degradation": "blur", "prediction": "eps"},
        "ddpm cannot take degradation = blur: its reverse steps are Gaussian",
    ),
    "v on blurring diffusion": (
        {"baseline": "ddpm", "degradation": "blurring", "prediction": "v"},
        "prediction v needs a schedule that preserves variance",
    ),
    "one image for all": (
        {"baseline": "cold", "degradation": "black", "start_noise": 0.0},
        "black ends in one image for all: without symmetry-breaking noise every sample is the same",
    ),
    "noise twice": ({"baseline": "ihdm", "degradation": "noise"}, "the noise level is the degradation already"),
    "a noise schedule on a blur": (
        {"baseline": "cold", "degradation": "blur", "schedule": "cosine"},
        "schedule means something only with degradation = noise; degradation is blur",
    ),
    "a degradation as schedule": (
        {"baseline": "gud", "basis": "dct", "schedule": "heat"},
        "schedule heat is that of a degradation",
    ),
    "x_prev of a noise process": ({"baseline": "ddpm", "prediction": "x_prev"}, "ddpm cannot take prediction = x_prev"),
}


def plan_of(*blocks: dict[str, Any], **changes: Any) -> Plan:
    return make_plan(grid_from(Document(merged(TINY, {"grid": list(blocks), **changes}), source="grid.yaml")))


@pytest.mark.parametrize("case", REFUSED)
def test_a_pair_that_makes_no_sense_is_skipped_with_its_reason(case: str) -> None:
    block, sentence = REFUSED[case]
    plan = plan_of(GOOD, block)
    ((label, reason),) = plan.skipped
    assert sentence in reason, reason
    assert "\n" not in reason
    assert label.startswith(block["baseline"])


@pytest.mark.parametrize("case", REFUSED)
def test_alone_it_ends_the_command_before_anything_starts(
    case: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    block, sentence = REFUSED[case]
    command = CommandLine(capsys, monkeypatch)
    grid = tiny_grid(tmp_path, grid=[block])
    called = command("run", str(grid), "--store", str(tmp_path / "store"), "--tracking", "none")
    assert called.code == 2
    assert sentence in called.sentence, called.sentence
    assert command.executors == []


@pytest.mark.parametrize(
    ("block", "sentence"),
    [
        ({"baseline": "cold", "degradation": "blurr"}, "degradation: unknown name 'blurr'; did you mean blur?"),
        (
            {"baseline": "cold", "degradation": {"kind": "blur", "blur_maxx": 3}},
            "degradation blur: unknown option 'blur_maxx'; did you mean blur_max?",
        ),
        ({"baseline": "vwd", "latent_dim": "many"}, "latent_dim"),
    ],
)
def test_a_misspelt_degradation_is_an_error_not_a_skip(block: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_of(GOOD, block)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("sampler", "sentence"),
    [
        ({"kind": "cold", "steps": 7}, "7 steps do not fall on the 20 levels; use a divisor of 20"),
        ({"kind": "cold", "final": "denoise"}, "cold walks levels: it takes final: state"),
        ({"kind": "cold", "spacing": "quadratic"}, "cold walks levels"),
    ],
)
def test_a_sampler_that_leaves_the_levels_is_refused(sampler: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_of({"baseline": "cold"}, evaluate={"samplers": {"cold": [sampler]}})
    assert sentence in str(caught.value)


def test_a_sampler_of_noise_needs_steps() -> None:
    with pytest.raises(ConfigError, match="sampler ddim: steps: give a number"):
        plan_of({"baseline": "ddpm"}, evaluate={"samplers": {"ddpm": [{"kind": "ddim"}]}})


def steps_of(plan: Plan) -> list[int]:
    return [cell.params["steps"] for cell in plan.cells]


def test_walking_levels_takes_all_of_them_unless_told_otherwise() -> None:
    assert steps_of(plan_of({"baseline": "cold", "num_levels": [4, 12]})) == [4, 12]
    samplers = {"cold": [{"kind": "cold", "steps": [6, 12], "rho": [0.0, 1.0]}]}
    assert steps_of(plan_of({"baseline": "cold", "num_levels": 12}, evaluate={"samplers": samplers})) == [6, 6, 12, 12]


SPELLINGS: dict[str, Callable[[], Plan]] = {
    "risannen": lambda: plan_of({"baseline": "risannen", "degradation": "blur", "num_levels": 4}),
    "bansal": lambda: plan_of({"baseline": "bansal", "degradation": "blur", "num_levels": 4}),
}


@pytest.mark.parametrize(("spelling", "name"), [("risannen", "ihdm"), ("bansal", "cold")])
def test_other_spellings_of_baselines_are_accepted(spelling: str, name: str) -> None:
    (cell,) = SPELLINGS[spelling]().cells
    assert cell.params["baseline"] == name
