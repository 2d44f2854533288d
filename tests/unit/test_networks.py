"""What particular networks do with noise levels, classes, resolutions and sizes."""

import pytest
import torch
from torch import Tensor, nn

from pipeline.config import ConfigError, parse, union
from pipeline.diffusion.predictor import Condition
from pipeline.networks import NETWORKS, ClassifierSpec, MlpSpec, UnetSpec
from pipeline.networks.embeddings import NoiseFeatures, TimeFeatures

SMALL = {"base_channels": 8, "channel_multipliers": [1, 2], "num_blocks": 1}


def small_unet(block: str = "ddpmpp", **fields: object) -> UnetSpec:
    return parse(UnetSpec, {**SMALL, "block": block, **fields})


def randomised(network: nn.Module) -> nn.Module:
    """A network after some training, as far as zero-initialised layers are concerned."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def output(network: nn.Module, x: Tensor, gamma: Tensor, label: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        return network(x, torch.zeros(len(x)), gamma, Condition(label=label))


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (2, 7, 9)])
@pytest.mark.parametrize("block", ["ddpmpp", "mp"])
def test_unet_takes_any_image_size(shape: tuple[int, ...], block: str) -> None:
    network = randomised(small_unet(block, channel_multipliers=[1, 2, 2]).build(shape, None))
    out = output(network, torch.randn(2, *shape), torch.zeros(2, 1))
    assert out.shape == (2, *shape)
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("block", ["ddpmpp", "mp"])
def test_attention_lets_every_pixel_see_every_other(block: str) -> None:
    x = torch.randn(1, 1, 24, 24)
    changed = x.clone()
    changed[0, 0, 0, 0] += 1.0
    seen = {}
    for resolutions in ([], [24]):
        spec = small_unet(block, channel_multipliers=[1], attention_resolutions=resolutions)
        network = randomised(spec.build((1, 24, 24), None))
        difference = output(network, changed, torch.zeros(1, 1)) - output(network, x, torch.zeros(1, 1))
        seen[bool(resolutions)] = difference[0, 0, -1, -1].abs().item()
    assert seen[True] > 0
    if block == "mp":  # group norm is global, so only the mp family is local without attention
        assert seen[False] == 0


def test_scalar_gamma_equals_the_same_gamma_in_every_component() -> None:
    network = randomised(small_unet().build((1, 8, 8), None))
    x, gamma = torch.randn(3, 1, 8, 8), torch.tensor([[-4.0], [0.0], [3.0]])
    torch.testing.assert_close(output(network, x, gamma), output(network, x, gamma.expand(3, 64)))


@pytest.mark.parametrize(
    "spec", [small_unet(), small_unet("mp"), MlpSpec(width=16, depth=1)], ids=lambda s: str(s.kind)
)
def test_band_of_components_with_other_noise_changes_the_output(spec: UnetSpec | MlpSpec) -> None:
    network = randomised(spec.build((1, 8, 8), None))
    x, gamma = torch.randn(1, 1, 8, 8), torch.zeros(1, 64)
    raised = gamma.clone()
    raised[:, -4:] = 3.0
    assert not torch.allclose(output(network, x, gamma), output(network, x, raised), atol=1e-4)


def test_noise_features_are_means_over_neighbouring_components() -> None:
    features = NoiseFeatures(10, 4)
    gamma = torch.randn(2, 10)
    means = torch.stack([gamma[:, list(band)].mean(1) for band in ((0, 1, 2), (3, 4), (5, 6, 7), (8, 9))], dim=1)
    torch.testing.assert_close(gamma @ features.averages, means)


def test_noise_features_take_the_noise_free_limit() -> None:
    features = NoiseFeatures(4, 4)
    assert torch.isfinite(features(torch.full((1, 1), -torch.inf))).all()
    assert torch.isfinite(features(torch.tensor([[-torch.inf, 0.0, 1.0, torch.inf]]))).all()


def test_fewer_components_than_bands_are_one_band_each() -> None:
    assert NoiseFeatures(2, 16).num_bands == 2


@pytest.mark.parametrize(
    "spec", [small_unet(), small_unet("mp"), MlpSpec(width=16, depth=1)], ids=lambda s: str(s.kind)
)
def test_class_changes_the_output_and_negative_means_none(spec: UnetSpec | MlpSpec) -> None:
    network = randomised(spec.build((1, 8, 8), 3))
    x, gamma = torch.randn(1, 1, 8, 8), torch.zeros(1, 1)
    outputs = [output(network, x, gamma, torch.tensor([label])) for label in (0, 1, 2, -1)]
    for first in range(4):
        for second in range(first):
            assert not torch.allclose(outputs[first], outputs[second], atol=1e-5)
    assert torch.equal(outputs[3], output(network, x, gamma, None))


def test_unconditional_network_does_not_read_the_label() -> None:
    network = randomised(small_unet().build((1, 8, 8), None))
    x, gamma = torch.randn(1, 1, 8, 8), torch.zeros(1, 1)
    assert torch.equal(output(network, x, gamma, torch.tensor([1])), output(network, x, gamma, None))


def test_anchor_preset_has_the_size_of_the_reference_configuration() -> None:
    network = UnetSpec.model_validate({"preset": "anchor"}).build((3, 32, 32), None)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == pytest.approx(1.75e6, rel=0.06)


def test_explicit_field_wins_over_the_preset_and_the_preset_leaves_no_trace() -> None:
    by_preset = UnetSpec.model_validate({"preset": "tiny", "dropout": 0.1})
    explicit = UnetSpec.model_validate({**by_preset.model_dump(), "preset": None})
    assert by_preset.identity() == explicit.identity()
    wide = UnetSpec.model_validate({"preset": "tiny", "base_channels": 48})
    assert wide.base_channels == 48
    assert wide.num_blocks == by_preset.num_blocks


def test_misspelt_field_is_named_with_its_cure() -> None:
    with pytest.raises(ConfigError, match="did you mean base_channels"):
        parse(union(NETWORKS), {"kind": "unet", "base_chanels": 3})


def test_unet_on_points_is_refused_with_the_alternative() -> None:
    with pytest.raises(ConfigError, match="use mlp"):
        UnetSpec().build((2,), None)


def test_initial_weights_are_a_function_of_the_seed_and_leave_the_generator_alone() -> None:
    state = torch.random.get_rng_state()
    first, again, other = (MlpSpec(width=8, depth=1).build((2,), None, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(first.input.weight, again.input.weight)
    assert not torch.equal(first.input.weight, other.input.weight)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (2,)])
def test_classifier_features_are_the_rectified_penultimate_layer(shape: tuple[int, ...]) -> None:
    network = ClassifierSpec(width=8, features=64).build(shape, 10)
    x = torch.rand(3, *shape) * 2 - 1
    features = network.features(x)
    assert features.shape == (3, 64)
    assert (features >= 0).all()
    assert torch.equal(network(x), network.logits(features))


def test_classifier_without_classes_is_refused() -> None:
    with pytest.raises(ConfigError, match="two classes"):
        ClassifierSpec().build((1, 8, 8), None)


class TestTimes:
    """Networks of degradations, which are told the level."""

    SPECS = (small_unet(), small_unet("mp"), MlpSpec(width=16, depth=1))

    def called(self, network: nn.Module, t: float, cond: Condition | None = None) -> Tensor:
        x = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)
        with torch.no_grad():
            return network(x, torch.tensor([t]), torch.zeros(1, 1), cond)

    def test_features_tell_neighbours_among_400_levels_apart(self) -> None:
        features = TimeFeatures()(torch.arange(401, dtype=torch.float64) / 400)
        distances = torch.cdist(features, features)
        distances.fill_diagonal_(torch.inf)
        assert distances.min() > 1.0
        torch.testing.assert_close(features.square().mean(1), torch.ones(401))

    @pytest.mark.parametrize("spec", SPECS, ids=lambda s: str(s.kind))
    def test_without_times_only_gamma_is_read(self, spec: UnetSpec | MlpSpec) -> None:
        network = randomised(spec.build((1, 8, 8), None))
        later = self.called(network, 0.7, Condition(time_to=torch.tensor([0.6]), latent=torch.ones(1, 3)))
        assert torch.equal(self.called(network, 0.2), later)

    @pytest.mark.parametrize("spec", SPECS, ids=lambda s: str(s.kind))
    def test_with_one_time_the_second_is_not_read(self, spec: UnetSpec | MlpSpec) -> None:
        network = randomised(spec.build((1, 8, 8), None, num_times=1))
        first = self.called(network, 0.5)
        assert not torch.allclose(first, self.called(network, 0.5025), atol=1e-4)
        assert torch.equal(first, self.called(network, 0.5, Condition(time_to=torch.tensor([0.2]))))

    @pytest.mark.parametrize("spec", SPECS, ids=lambda s: str(s.kind))
    def test_second_time_is_the_first_unless_it_is_given(self, spec: UnetSpec | MlpSpec) -> None:
        network = randomised(spec.build((1, 8, 8), None, num_times=2))
        same, earlier = (Condition(time_to=torch.tensor([time])) for time in (0.5, 0.4))
        first = self.called(network, 0.5)
        assert torch.equal(first, self.called(network, 0.5, same))
        assert not torch.allclose(first, self.called(network, 0.5, earlier), atol=1e-4)

    @pytest.mark.parametrize("spec", SPECS, ids=lambda s: str(s.kind))
    def test_latent_code_is_read_and_none_means_zeros(self, spec: UnetSpec | MlpSpec) -> None:
        network = randomised(spec.build((1, 8, 8), None, latent_dim=3))
        first = self.called(network, 0.5)
        assert torch.equal(first, self.called(network, 0.5, Condition(latent=torch.zeros(1, 3))))
        assert not torch.allclose(first, self.called(network, 0.5, Condition(latent=torch.ones(1, 3))), atol=1e-4)

    def test_three_times_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="0, 1 or 2 times"):
            MlpSpec(width=8, depth=1).build((2,), num_times=3)

    def test_classifier_with_times_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="neither times"):
            ClassifierSpec().build((1, 8, 8), 3, num_times=1)
