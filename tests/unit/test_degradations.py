"""The table of degradations: what each name is with its default options, where it ends, and what it refuses."""

from typing import Any

import pytest
import torch

from pipeline.config import ConfigError
from pipeline.diffusion import build_process
from pipeline.diffusion.processes.degradations import DEGRADATIONS

NAMES = [
    "noise",
    "blurring",
    "black",
    "blur",
    "black_blur",
    "pixelate",
    "black_pixelate",
    "kernel_blur",
    "black_kernel_blur",
    "fade",
    "decolor",
    "pixelate_nearest",
    "black_pixelate_nearest",
    "kernel_blur_reflect",
]
SHAPE = (3, 12, 12)
LEVELLED = [name for name in NAMES if name not in ("noise", "blurring")]


def process_of(name: str, shape: tuple[int, ...] = SHAPE, **options: Any) -> Any:
    return build_process(DEGRADATIONS[name].process({"num_levels": 4, **options}), shape)


def images() -> torch.Tensor:
    return torch.rand(3, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def end_of(name: str, **options: Any) -> torch.Tensor:
    process = process_of(name, **options)
    return process.to_data(process.degrade(process.to_components(images()), 1.0))


def test_the_names_are_those_of_the_papers() -> None:
    assert set(DEGRADATIONS) == set(NAMES)
    assert all(DEGRADATIONS[name].name == name for name in NAMES)


def test_only_noise_and_blurring_are_gaussian() -> None:
    assert {name for name in NAMES if DEGRADATIONS[name].is_gaussian} == {"noise", "blurring"}
    assert {name for name in NAMES if DEGRADATIONS[name].terminal == "gaussian"} == {"noise", "blurring"}


@pytest.mark.parametrize("name", LEVELLED)
def test_levelled_degradations_are_told_apart_from_noise(name: str) -> None:
    process = process_of(name, noise=0.1)
    assert process.is_degradation
    assert process.num_levels == 4
    assert process.sigma(1.0).max() == pytest.approx(0.1)


def test_blurring_is_no_degradation_in_levels() -> None:
    process = process_of("blurring")
    assert not process.is_degradation
    assert process.num_levels is None


ENDS: list[tuple[str, dict[str, Any]]] = [
    *[(name, {}) for name in LEVELLED],
    ("blur", {"blur_max": 3.0}),
    ("blur", {"with_flat_end": False}),
    ("blur", {"blur_max": 3.0, "with_flat_end": True}),
    ("kernel_blur", {"with_flat_end": False}),
    ("kernel_blur_reflect", {"with_flat_end": False}),
    ("fade", {"with_zero_end": False}),
    ("pixelate_nearest", {"levels": "vcd", "num_levels": 3}),
    ("black_blur", {"fade": "none", "blur_max": 3.0}),
]


@pytest.mark.parametrize(("name", "options"), ENDS)
def test_images_end_as_the_table_says(name: str, options: dict[str, Any]) -> None:
    end = end_of(name, **options)
    centre = -1.0 if name.startswith("black") or name == "fade" else 0.0
    is_flat = (end - end[..., :1, :1]).abs().max() < 1e-12
    found = "zero" if (end == centre).all() else "flat" if is_flat else "images"
    assert DEGRADATIONS[name].terminal_with(options) == found


def test_published_blur_counts_as_flat() -> None:
    assert DEGRADATIONS["blur"].terminal_with({"levels": "vcd"}) == "flat"
    end = end_of("blur", levels="vcd")
    assert 1e-6 < (end - end.mean(dim=(2, 3), keepdim=True)).abs().max() < 0.02


def test_the_end_of_a_blur_is_the_mean_colour() -> None:
    for name in ("blur", "pixelate", "kernel_blur"):
        mean = images().mean(dim=(2, 3), keepdim=True).expand(3, *SHAPE)
        torch.testing.assert_close(end_of(name), mean, rtol=0, atol=1e-12)


def test_decolored_images_end_grey() -> None:
    torch.testing.assert_close(end_of("decolor"), images().mean(dim=1, keepdim=True).expand(3, *SHAPE))


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("black")])
def test_black_degradations_can_use_every_fade(name: str) -> None:
    for fade in ("cosine", "linear", "exponential", "vcd_cosine", "vcd_exponential"):
        assert (end_of(name, fade=fade) == -1).all()
        assert DEGRADATIONS[name].terminal_with({"fade": fade}) == "zero"


def test_more_levels_than_scales_fade_one_scale_after_another() -> None:
    process = process_of("pixelate", (1, 8, 8), num_levels=6)
    alpha = process.marginal(torch.arange(7, dtype=torch.float64) / 6).alpha
    level = process.basis.level
    assert alpha[:, level == 3].amin(1).tolist() == [1.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert alpha[:, level == 2].amin(1).tolist() == [1.0, 1.0, 1.0, 0.5, 0.0, 0.0, 0.0]
    assert alpha[:, level == 1].amin(1).tolist() == [1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.0]
    assert (alpha[:, level == 0] == 1).all()


def test_28_pixels_have_blocks_of_2_and_4_and_the_whole_image() -> None:
    process = process_of("pixelate", (1, 28, 28), num_levels=3)
    x = torch.rand(2, 1, 28, 28, dtype=torch.float64)
    for level, block in enumerate((2, 4, 28), start=1):
        degraded = process.to_data(process.degrade(process.to_components(x), level / 3))
        mean = torch.nn.functional.avg_pool2d(x, block).repeat_interleave(block, -1).repeat_interleave(block, -2)
        torch.testing.assert_close(degraded, mean, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "options", "shape", "reason"),
    [
        ("pixelate", {}, (1, 7, 7), "sides that can be halved, found 7 x 7"),
        ("black_pixelate", {}, (1, 15, 16), "sides that can be halved, found 15 x 16"),
        ("pixelate_nearest", {"num_levels": 20}, (1, 8, 8), "has 4 levels that differ on 8 pixels"),
        ("pixelate_nearest", {"levels": "vcd", "num_levels": 20}, (1, 32, 32), "repeats block size"),
        ("kernel_blur_reflect", {"kernel_size": 27}, (1, 13, 13), "needs sides of more than 13 pixels"),
        ("decolor", {}, (1, 8, 8), "needs images with 3 channels, found shape"),
        ("fade", {}, (64,), "needs images"),
        ("fade", {"levels": "cold"}, SHAPE, "levels cold needs kernel_std"),
        ("fade", {"kernel_std": 0.1}, SHAPE, "belong to levels cold"),
        ("blur", {"levels": "vcd", "num_levels": 1}, SHAPE, "need num_levels of at least 2, found 1"),
        ("blur", {"levels": "vcd", "blur_max": 20.0}, SHAPE, "give no blur_min, blur_max"),
        ("blur", {"blur_min": 3.0, "blur_max": 2.0}, SHAPE, "blur_max must be larger than blur_min"),
        ("blur", {"blur_min": 12.0}, SHAPE, "must be smaller than the side, 12 pixels"),
        ("blur", {"num_levels": 0}, SHAPE, "greater than or equal to 1, found 0"),
        ("blur", {"num_levels": None}, SHAPE, "num_levels"),
        ("black", {"fade": "none"}, SHAPE, "without one no level does anything"),
        ("black", {"fade": "vcd_cosine", "num_levels": 1}, SHAPE, "needs num_levels of at least 2, found 1"),
        ("decolor", {"chroma": "none"}, SHAPE, "without one no level does anything"),
        ("kernel_blur", {"kernel_size": 6}, SHAPE, "kernel_size must be odd, found 6"),
        ("blurring", {"log_snr_prior": 12.0}, SHAPE, "log_snr_prior must be smaller"),
        ("blur", {"blur_maxx": 3.0}, SHAPE, "unknown option 'blur_maxx'; did you mean blur_max"),
        ("pixelate", {"fade": "cosine"}, SHAPE, "unknown option 'fade'"),
    ],
)
def test_what_does_not_fit_has_a_reason(
    name: str, options: dict[str, Any], shape: tuple[int, ...], reason: str
) -> None:
    found = DEGRADATIONS[name].check({"num_levels": 4, **options}, shape)
    assert found is not None
    assert reason in found
    assert "\n" not in found


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 64, 64), (3, 8, 8)])
def test_usual_images_fit_every_degradation(name: str, shape: tuple[int, ...]) -> None:
    assert DEGRADATIONS[name].check({"num_levels": 4}, shape) is None


def test_unknown_options_are_refused_by_process_too() -> None:
    with pytest.raises(ConfigError, match="degradation blur: unknown option 'levelz'; did you mean levels"):
        DEGRADATIONS["blur"].process({"num_levels": 3, "levelz": "vcd"})


def test_long_images_and_vectors_can_be_blurred() -> None:
    for shape in ((1, 8, 20), (40,)):
        process = process_of("blur", shape)
        x = torch.rand(2, *shape, dtype=torch.float64)
        end = process.to_data(process.degrade(process.to_components(x), 1.0))
        torch.testing.assert_close(end.flatten(1).std(dim=1), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12)
