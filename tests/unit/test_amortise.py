"""One network for a box of schedules: what is drawn in training, what the network reads, and what the plan shares."""

from typing import Any

import pytest
import torch

from pipeline.baselines.samplers import SamplerSpec
from pipeline.baselines.system import build_system
from pipeline.config import ConfigError, parse
from pipeline.diffusion import Statistics, build_kernel, build_process, sample
from pipeline.diffusion.objectives import AmortiseSpec, Batch, DenoisingSpec, Draws
from pipeline.diffusion.predictor import Precondition
from pipeline.diffusion.randomness import NoiseStream
from pipeline.diffusion.sampling import time_grid
from pipeline.grid import make_plan
from pipeline.grid.plan import Plan
from pipeline.grid.spec import GridSpec
from pipeline.networks.embeddings import NoiseFeatures
from tests.diffusion_cases import DIM, IMAGE_SHAPE, gaussian_oracle, image_statistics, normal, vector_process
from tests.grids import TINY, merged

VARIANCES = torch.tensor([2.0, 0.5, 0.1, 0.02], dtype=torch.float64)
BOX = {"softness_a": (0.4, 1.6), "ordering_r": (0.0, 1.0)}
GUD = {"kind": "gud", "softness_a": 0.4}


def inputs_of(box: dict[str, Any] | None, *, positions: range = range(64), schedule: dict[str, Any] = GUD) -> Any:
    """What one step corrupts, for examples `positions` of a global batch of 64."""
    process = vector_process(schedule, VARIANCES)
    objective = DenoisingSpec(amortise=None if box is None else AmortiseSpec(**box)).build(Precondition(process, "eps"))
    draws = Draws(NoiseStream(3), 5, positions, 64)
    x_0 = draws.normal("data", (4,)) * VARIANCES.sqrt().float()
    (phase,) = objective.phases(5)
    return phase.inputs(Batch(x_0, None, positions, 64), draws)


def test_every_example_is_corrupted_under_a_schedule_of_its_own_inside_the_box() -> None:
    given = inputs_of(BOX)
    schedule = given.precondition.process.schedule
    for name, (low, high) in BOX.items():
        values = getattr(schedule, name)
        assert values.shape == (64, 1)
        assert len(values.unique()) == 64
        assert low <= float(values.min()) < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < float(values.max()) <= high


def test_softness_is_uniform_where_it_is_asked_for() -> None:
    plain, soft = (inputs_of(box).precondition.process.schedule for box in (BOX, {**BOX, "uniform_in": "softness"}))
    low, high = BOX["softness_a"]
    shares = (plain.softness_a - low) / (high - low)  # the same uniform numbers behind both
    torch.testing.assert_close(1.0 / soft.softness_a, 1.0 / high + (1.0 / low - 1.0 / high) * shares)
    assert torch.equal(plain.ordering_r, soft.ordering_r)


def test_an_example_is_corrupted_as_by_the_process_of_its_own_point() -> None:
    given = inputs_of(BOX)
    schedule = given.precondition.process.schedule
    for row in (0, 17, 63):
        point = {name: float(getattr(schedule, name)[row]) for name in BOX}
        alone = vector_process({"kind": "gud", **point}, VARIANCES)
        m = alone.marginal(given.t[row])
        expected = m.alpha * given.c_0[row] + m.sigma * given.eps[row]
        torch.testing.assert_close(given.u_t[row, 0].double(), expected[0], rtol=1e-6, atol=1e-6)
        shown = Precondition(alone, "eps").inputs(given.u_t[row : row + 1], given.t[row])
        torch.testing.assert_close(given.network.gamma[row], shown.gamma[0])
        torch.testing.assert_close(given.network.x[row], shown.x[0])


def test_a_batch_in_parts_sees_the_draws_of_the_whole() -> None:
    whole, parts = inputs_of(BOX), [inputs_of(BOX, positions=part) for part in (range(24), range(24, 64))]
    assert torch.equal(whole.u_t, torch.cat([part.u_t for part in parts]))


def test_a_side_that_is_not_drawn_keeps_the_value_of_the_schedule() -> None:
    schedule = inputs_of({"softness_a": (0.4, 1.6)}, schedule={**GUD, "ordering_r": 0.25}).precondition.process.schedule
    assert schedule.ordering_r.unique().tolist() == [0.25]


def test_times_and_noise_are_those_of_a_training_for_one_point() -> None:
    assert torch.equal(inputs_of(BOX).t, inputs_of(None).t)
    assert torch.equal(inputs_of(BOX).eps, inputs_of(None).eps)


def test_a_schedule_without_free_parameters_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs schedule gud"):
        inputs_of(BOX, schedule={"kind": "vp"})


@pytest.mark.parametrize(
    "box",
    [
        {},
        {"softness_a": (1.0, 1.0)},
        {"ordering_r": (0.0, 1.5)},
        {"softness_a": (-1, 1)},
        {"softness_a": (0, 1), "uniform_in": "softness"},
        {"ordering_r": (0, 1), "uniform_in": "softness"},
    ],
)
def test_an_impossible_box_is_refused(box: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        parse(AmortiseSpec, box, "amortise")


def test_bands_follow_the_order_of_the_components() -> None:
    order = torch.tensor([3, 1, 0, 2])
    gamma = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    assert torch.equal(NoiseFeatures(4, 2, order)(gamma), NoiseFeatures(4, 2)(gamma[:, order]))


def system(basis: str, network: dict[str, Any], **objective: Any) -> Any:
    process = {"kind": "spectral", "basis": basis, "schedule": {**GUD, "ordering": "variance"}}
    tree = {"process": process, "objective": {"kind": "denoising", **objective}, "network": network}
    return build_system(tree, shape=IMAGE_SHAPE, num_classes=None, statistics=image_statistics())


@pytest.mark.parametrize("network", [{"kind": "mlp", "width": 8, "depth": 1}, {"kind": "unet", "preset": "tiny"}])
def test_levels_of_pixels_are_shown_to_the_network_as_an_image(network: dict[str, Any]) -> None:
    built = system("pixel", network, amortise=BOX).networks["network"]
    for weight in built.parameters():
        weight.data = 0.3 * normal(weight.numel(), *weight.shape, dtype=torch.float32)
    x, t = normal(0, 2, *IMAGE_SHAPE, dtype=torch.float32), torch.full((2,), 0.5)
    gamma = normal(1, 2, DIM, dtype=torch.float32)
    swapped = gamma.clone()
    swapped[:, [0, 1]] = gamma[:, [1, 0]]
    assert not torch.allclose(built(x, t, gamma, None), built(x, t, swapped, None), atol=1e-6)


def test_systems_for_one_schedule_are_built_as_before() -> None:
    plain = system("pixel", {"kind": "mlp", "width": 8, "depth": 1}).networks["network"]
    shared = system("pixel", {"kind": "mlp", "width": 8, "depth": 1}, amortise=BOX).networks["network"]
    assert set(shared.state_dict()) - set(plain.state_dict()) == {"map.weight"}


def plan_of(*blocks: dict[str, Any], **changes: Any) -> Plan:
    return make_plan(parse(GridSpec, merged(TINY, {"grid": list(blocks), **changes})))


AMORTISED = {"baseline": "gud", "amortise": {"softness_a": [0.4, 1.6]}}


def test_all_points_of_a_box_share_one_training_and_keep_their_own_images() -> None:
    plan = plan_of({**AMORTISED, "softness_a": [0.4, 1.0, 1.6]}, {"baseline": "gud", "softness_a": 0.4})
    assert len(plan.trainings) == 2
    assert len({cell.tasks.samples[0].key for cell in plan.cells}) == 4
    assert {cell.params["training"] for cell in plan.cells} == {"amortised", "per_cell"}


def test_each_prior_has_a_training_of_its_own() -> None:
    assert len(plan_of({**AMORTISED, "prior": ["standard", "data"], "softness_a": [0.5, 1]}).trainings) == 2


def test_a_point_outside_the_box_is_refused_unless_it_is_asked_for() -> None:
    plan = plan_of({**AMORTISED, "softness_a": [1.0, 2.0]})
    ((_, reason),) = plan.skipped
    assert reason.startswith("softness_a = 2 lies outside the trained range [0.4, 1.6]")
    forced = plan_of({**AMORTISED, "softness_a": 2.0, "extrapolate": True})
    assert forced.trainings[0].key == plan.trainings[0].key


def test_standard_diffusion_with_ends_from_the_data_is_merged_with_its_point_of_the_family() -> None:
    ends = {"log_snr_data": 7, "log_snr_prior": -7}
    plan = plan_of(
        {"baseline": "gud", "softness_a": 1.0},
        {"baseline": "ddpm", "basis": "pca", "centre": "mean", "schedule": {"kind": "log_linear", **ends}},
    )
    assert [cell.params["baseline"] for cell in plan.cells] == ["gud"]
    assert len(plan.merged) == 1


@pytest.mark.parametrize("basis", ["pixel", "dct", "fourier", "haar", "pca"])
def test_standard_diffusion_is_the_log_linear_schedule_whose_ends_the_data_give(basis: str) -> None:
    """alpha, sigma and a DDIM path with the exact predictor agree to 1e-12."""
    variances = image_statistics()
    ends = {"log_snr_data": 7.0, "log_snr_prior": -7.0}

    def process(schedule: dict[str, Any]) -> Any:
        spec = {"kind": "spectral", "basis": basis, "centre": "mean", "schedule": schedule}
        return build_process(spec, shape=IMAGE_SHAPE, statistics=variances)

    point = process({"kind": "gud", "softness_a": 1.0, **ends})
    logs = point.variances.log()
    numbers = {"gamma_min": float(logs.min()) - 7.0, "gamma_max": float(logs.max()) + 7.0}
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    x_T, path = normal(4, 3, *IMAGE_SHAPE), {}
    for name, schedule in {"point": None, "named": ends, "numbers": numbers}.items():
        built = point if schedule is None else process({"kind": "log_linear", **schedule})
        for field in ("alpha", "sigma"):
            found, expected = getattr(built.marginal(t), field), getattr(point.marginal(t), field)
            torch.testing.assert_close(found.expand_as(expected), expected, rtol=0, atol=1e-12)
        walked = sample(
            built, build_kernel({"kind": "ddim"}), gaussian_oracle(built), x_T, time_grid(50), return_path=True
        )
        path[name] = torch.as_tensor(walked[1])
    for name in ("named", "numbers"):
        torch.testing.assert_close(path[name], path["point"], rtol=0, atol=1e-12)


def test_equal_steps_of_log_snr_are_as_many_as_the_schedule_is_long() -> None:
    for softness_a in (0.0, 1.0):
        process = vector_process({"kind": "gud", "softness_a": softness_a}, VARIANCES)
        length = 14 + softness_a * float(torch.log(VARIANCES[0] / VARIANCES[-1]))
        resolved = SamplerSpec.model_validate({"kind": "ddim", "log_snr_step": 0.5}).on(process)
        assert resolved.steps == -int(-length // 0.5)


def test_a_schedule_that_starts_clean_has_no_equal_steps_of_log_snr() -> None:
    process = build_process(
        {"kind": "spectral", "basis": "pixel", "schedule": {"kind": "vp"}},
        shape=(4,),
        statistics=Statistics(mean=torch.zeros(4), variances=VARIANCES),
    )
    with pytest.raises(ConfigError, match="log_snr_step needs a schedule"):
        SamplerSpec.model_validate({"kind": "ddim", "log_snr_step": 0.5}).on(process)
