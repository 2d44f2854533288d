"""Learning rates, chunks, flat gradients, data order, curve, status board."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from pipeline.config import ConfigError, parse
from pipeline.diffusion.objectives.base import Draws
from pipeline.diffusion.randomness import NoiseStream
from pipeline.shards import StreamedBatches
from pipeline.store import Key, open_store
from pipeline.train.curve import Curve
from pipeline.train.data import ResidentData, StreamedData, open_data
from pipeline.train.gradient import LOSS, FlatGradient, chunk_bounds, owned_chunks
from pipeline.train.group import Group
from pipeline.train.spec import TrainSpec
from pipeline.train.status import StatusBoard, read_status, status_name
from pipeline.train.weights import FlatWeights
from tests import stage_cases
from tests.train_cases import CPU, data, samples, spec


class TestTrainSpec:
    def test_warmup_rises_linearly_to_the_rate(self) -> None:
        train = TrainSpec(lr=1.0, warmup_steps=4, steps=10)
        assert [train.lr_at(step) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]

    def test_cosine_starts_at_the_rate_and_ends_near_zero(self) -> None:
        train = TrainSpec(lr=1.0, lr_decay="cosine", steps=100)
        assert train.lr_at(0) == 1.0
        assert train.lr_at(50) == pytest.approx(0.5)
        assert train.lr_at(99) < 1e-3

    def test_runtime_fields_do_not_name_the_result(self) -> None:
        changed = TrainSpec(workers=4, device="cpu", checkpoint_steps=3, num_threads=2, data_memory_bytes=1)
        assert changed.identity() == TrainSpec().identity()

    def test_batch_enters_the_identity(self) -> None:
        assert TrainSpec(batch=32).identity() != TrainSpec().identity()

    @pytest.mark.parametrize(
        "wrong",
        [
            {"lr": 0.0},
            {"steps": 0},
            {"device": "tpu"},
            {"chunks": 65},
            {"ema": {}},
            {"ema": {"decay": 1.0}},
            {"lrr": 1.0},
        ],
    )
    def test_nonsense_is_refused(self, wrong: dict[str, object]) -> None:
        with pytest.raises(ConfigError):
            parse(TrainSpec, wrong)


class TestChunks:
    @pytest.mark.parametrize(("batch", "chunks", "size"), [(64, 2, 2), (10, 4, 3), (7, 1, 2), (3, 1, 5), (9, 8, 1)])
    def test_workers_cover_the_batch_once_and_in_order(self, batch: int, chunks: int, size: int) -> None:
        spans = [span for rank in range(size) for span in owned_chunks(batch, chunks, Group(rank=rank, size=size))]
        assert [p for first, last in spans for p in range(first, last)] == list(range(batch))

    def test_sizes_differ_by_one_at_most(self) -> None:
        sizes = {last - first for first, last in chunk_bounds(100, 7)}
        assert sizes == {14, 15}


class TestFlatGradient:
    def gradient(self, num_chunks: int) -> tuple[torch.nn.Linear, FlatGradient]:
        layer = torch.nn.Linear(3, 2)
        weights = FlatWeights({"net": layer}, [{"params": list(layer.parameters())}])
        return layer, FlatGradient(weights, num_chunks=num_chunks, group=Group())

    @pytest.mark.parametrize("num_chunks", [1, 2, 4])
    def test_sums_the_chunks(self, num_chunks: int) -> None:
        layer, gradient = self.gradient(num_chunks)
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
        gradient.clear_()
        for part in x.chunk(num_chunks):
            loss = layer(part).square().sum()
            loss.backward()
            gradient.add_chunk_(loss, {})
        slots = gradient.reduce_(failed=False, stop=False)
        expected = torch.autograd.grad(layer(x).square().sum(), list(layer.parameters()))
        for parameter, value in zip(layer.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, value)
        torch.testing.assert_close(slots[LOSS], layer(x).detach().square().sum())

    def test_clipping_keeps_the_direction(self) -> None:
        layer, gradient = self.gradient(1)
        gradient.clear_()
        (3.0 * layer.weight.sum()).backward()
        norm = gradient.clip_(1.0)
        assert norm.item() == pytest.approx(3.0 * math.sqrt(6))
        assert gradient.gradient.norm().item() == pytest.approx(1.0, rel=1e-5)
        assert layer.weight.grad is not None
        assert layer.weight.grad.std() == 0

    def test_a_short_gradient_stays_as_it_is(self) -> None:
        layer, gradient = self.gradient(1)
        gradient.clear_()
        (0.1 * layer.weight.sum()).backward()
        gradient.clip_(1.0)
        assert layer.weight.grad is not None
        assert torch.equal(layer.weight.grad, torch.full((2, 3), 0.1))

    def test_a_failed_worker_makes_the_step_not_finite(self) -> None:
        _, gradient = self.gradient(1)
        gradient.clear_()
        assert torch.isnan(gradient.reduce_(failed=True, stop=False)[LOSS])


def draws(step: int, positions: range, *, batch: int = 8, seed: int = 5) -> Draws:
    return Draws(NoiseStream(seed), step, positions, batch, CPU)


class TestData:
    def test_every_epoch_shows_every_sample_once(self) -> None:
        train = spec(dequantise=False, flips=False)
        resident = ResidentData(
            samples(20), quantisation=stage_cases.LEVELS, stream=NoiseStream(5), spec=train, device=CPU
        )
        seen = torch.cat([resident.batch(draws(step, range(8))).x_0 for step in range(5)])
        first, second = (Counter(x.numpy().tobytes() for x in part) for part in seen.split(20))
        assert first == second
        assert not torch.equal(*seen.split(20))

    def test_parts_of_a_batch_are_the_batch(self) -> None:
        resident = data(spec())
        whole = resident.batch(draws(3, range(8)))
        parts = [resident.batch(draws(3, positions)) for positions in (range(3), range(3, 8))]
        assert torch.equal(whole.x_0, torch.cat([part.x_0 for part in parts]))
        assert whole.label is not None
        assert torch.equal(whole.label, torch.cat([part.label for part in parts if part.label is not None]))

    def test_noise_stays_inside_the_level_and_about_half_is_flipped(self) -> None:
        train = spec()
        plain = data(spec(dequantise=False, flips=False)).batch(draws(0, range(8))).x_0
        noisy = data(spec(flips=False)).batch(draws(0, range(8))).x_0
        both = data(train).batch(draws(0, range(8))).x_0
        assert (plain - noisy).abs().max() <= 1 / stage_cases.LEVELS + 1e-6
        assert not torch.equal(plain, noisy)
        is_flipped = [torch.equal(b, n.flip(-1)) and not torch.equal(b, n) for b, n in zip(both, noisy, strict=True)]
        assert 0 < sum(is_flipped) < 8

    def test_streams_when_the_limit_is_passed(self, tmp_path: object) -> None:
        artifact = stage_cases.dataset(open_store(str(tmp_path)))
        small = open_data(artifact, spec(data_memory_bytes=10), stream=NoiseStream(5), seed=5, device=CPU)
        large = open_data(artifact, spec(), stream=NoiseStream(5), seed=5, device=CPU)
        assert isinstance(small, StreamedData)
        assert isinstance(large, ResidentData)
        for source in (small, large):
            batch = source.batch(draws(2, range(8)))
            assert batch.x_0.shape == (8, 1, 4, 4)
            assert batch.label is not None
            assert batch.label.shape == (8,)

    def test_streamed_parts_are_the_batch(self, tmp_path: object) -> None:
        artifact = stage_cases.dataset(open_store(str(tmp_path)))
        streamed = StreamedData(StreamedBatches(artifact, "train", seed=5, global_batch=8), spec=spec(), device=CPU)
        whole = streamed.batch(draws(70, range(8))).x_0
        parts = [streamed.batch(draws(70, positions)).x_0 for positions in (range(1), range(1, 8))]
        assert torch.equal(whole, torch.cat(parts))


class TestCurve:
    def test_rows_are_window_means(self) -> None:
        curve = Curve(2500)
        for step in range(2500):
            curve.add("loss", float(step))
            curve.end_step(step, 0.1)
        arrays = curve.arrays()
        assert curve.window == 3
        np.testing.assert_allclose(arrays["loss"][:3], [1.0, 4.0, 7.0])
        assert arrays["step"][-1] == 2500

    def test_late_columns_are_padded(self) -> None:
        curve = Curve(3)
        for step in range(3):
            if step == 2:
                curve.add("late", 1.0)
            curve.end_step(step, 0.1)
        np.testing.assert_array_equal(curve.arrays()["late"], [np.nan, np.nan, 1.0])


class TestStatusBoard:
    def test_newest_document_wins_and_is_found_again(self, tmp_path: object) -> None:
        documents = open_store(str(tmp_path)).documents("grids/g")
        key = Key("train", "a" * 64)
        board = StatusBoard(documents, "run-1")
        for step in range(50):
            board.put(key, {"step": step})
        board.close()
        status = read_status(documents, key)
        assert status is not None
        assert (status["step"], status["key"]) == (49, str(key))
        assert documents.list() == [status_name(key)]

    def test_what_another_run_wrote_is_not_remembered(self, tmp_path: object) -> None:
        documents = open_store(str(tmp_path)).documents("grids/g")
        key = Key("train", "a" * 64)
        first, second = StatusBoard(documents, "run-1"), StatusBoard(documents, "run-2")
        first.put_now(key, {"starts": 2})
        assert first.get(key)["starts"] == 2
        assert second.get(key) == {}
        first.close()
        second.close()

    def test_a_broken_store_does_not_reach_the_training(self) -> None:
        class Broken:
            def put(self, name: str, body: bytes) -> None:
                raise OSError("no space")

            def get(self, name: str) -> bytes | None:
                raise OSError("no store")

        board = StatusBoard(Broken(), "run-1")
        board.put_now(Key("train", "a" * 64), {})
        assert board.get(Key("train", "a" * 64)) == {}
        board.close()


class TestFlatWeights:
    def networks(self) -> dict[str, torch.nn.Module]:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            convolution = torch.nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
            return {"a": convolution, "b": torch.nn.Linear(5, 3)}

    def test_networks_compute_what_they_did_before(self) -> None:
        plain, flat = self.networks(), self.networks()
        params = [[network.weight, network.bias] for network in flat.values()]
        FlatWeights(flat, [{"params": params[0]}, {"params": params[1], "lr_scale": 2.0}])
        x, y = torch.ones(1, 2, 4, 4), torch.ones(1, 5)
        assert torch.equal(plain["a"](x), flat["a"](x))
        assert torch.equal(plain["b"](y), flat["b"](y))
        assert flat["a"].weight.stride() == plain["a"].weight.stride()

    def test_one_adam_step_equals_that_on_separate_tensors(self) -> None:
        results = []
        for is_flat in (False, True):
            networks = self.networks()
            groups = [{"params": list(network.parameters()), "weight_decay": 0.1} for network in networks.values()]
            weights = FlatWeights(networks, groups) if is_flat else None
            gradient = None if weights is None else FlatGradient(weights, num_chunks=1, group=Group())
            optimiser = torch.optim.AdamW(groups if weights is None else weights.param_groups(), lr=0.1, fused=True)
            for _ in range(3):
                if gradient is None:
                    optimiser.zero_grad()
                else:
                    gradient.clear_()
                (
                    networks["a"](torch.ones(1, 2, 4, 4)).square().sum() + networks["b"](torch.ones(1, 5)).sum()
                ).backward()
                optimiser.step()
            results.append([p.detach().clone() for network in networks.values() for p in network.parameters()])
        for separate, flat in zip(*results, strict=True):
            torch.testing.assert_close(flat, separate)

    def test_views_of_another_buffer_have_the_parameters_places(self) -> None:
        networks = self.networks()
        weights = FlatWeights(networks, [{"params": [p for n in networks.values() for p in n.parameters()]}])
        doubled = weights.views([2 * flat.detach() for flat in weights.flats])
        for network, name in doubled:
            torch.testing.assert_close(doubled[network, name], 2 * networks[network].get_parameter(name).detach())
