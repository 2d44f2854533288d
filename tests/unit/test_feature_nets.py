"""Feature nets: honest names, weights that are what they claim, nets of the user's own, and refusals."""

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import boto3
import pytest
import torch
from torch import Tensor, nn

from pipeline.config import ConfigError, DataError, parse
from pipeline.evaluate.nets import (
    INCEPTION_SHA256,
    AnyNetSpec,
    InceptionNetSpec,
    LoadedNet,
    PluginNetSpec,
    TorchscriptNetSpec,
    inception_weights,
    state_sha256,
)
from pipeline.evaluate.nets.inception import Inception

OTHER_SHA256 = "0" * 64
HERE = "tests.unit.test_feature_nets"


class Means(nn.Module):
    """Features: a weighted mean per channel; two logits."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3)) * self.weight

    def logits(self, features: Tensor) -> Tensor:
        return features[:, :2]


class Broken(nn.Module):
    """Features that are no numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.full((len(x), 3), torch.nan)


class Maps(nn.Module):
    """Maps instead of rows of features."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def number() -> int:
    return 3


class Planted:
    """A pickle of it would create a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def state(**changes: Any) -> dict[str, Any]:
    """Weights of the right names and shapes, each one number repeated, so that their file is small."""
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in Inception().state_dict().items()}
    made: dict[str, Any] = {
        name: torch.tensor(0) if name.endswith("tracked") else torch.tensor(0.01).expand(shape)
        for name, shape in shapes.items()
    }
    return {name: value for name, value in {**made, **changes}.items() if value is not None}


def saved(path: Path, content: Any, **options: Any) -> tuple[Path, str]:
    torch.save(content, path, **options)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def plugin(function: str, **fields: Any) -> PluginNetSpec:
    return PluginNetSpec.model_validate({"name": "fd_means", "module": f"{HERE}:{function}", **fields})


@pytest.mark.parametrize(
    ("fields", "name", "preprocessing"),
    [
        ({}, "fid", "tf1-299"),
        ({"resize": "clean"}, "clean_fid", "clean-299"),
        ({"resize": "torch"}, "fid_pytorch", "torch-299"),
        ({"fast": True}, "fid_fast", "tf1-299-bf16"),
        ({"resize": "clean", "fast": True}, "clean_fid_fast", "clean-299-bf16"),
        ({"seeded": True, "weights": None}, "fd_rand_inception", "tf1-299"),
        ({"seeded": True, "weights": None, "resize": "clean"}, "fd_rand_inception_clean", "clean-299"),
        ({"sha256": OTHER_SHA256, "name": "fd_mine"}, "fd_mine", "tf1-299"),
    ],
)
def test_the_name_follows_from_weights_resize_and_precision(
    fields: dict[str, Any], name: str, preprocessing: str
) -> None:
    spec = parse(AnyNetSpec, {"kind": "inception", "weights": "w.pth", **fields})
    assert (spec.name, spec.preprocessing) == (name, preprocessing)
    assert parse(AnyNetSpec, spec.model_dump(mode="json")) == spec


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"kind": "inception"}, "give the path or URI of the Inception weights, or seeded: true"),
        ({"kind": "inception", "weights": "w", "name": "fd_mine"}, "the metric is fid"),
        ({"kind": "inception", "weights": "w", "resize": "clean", "name": "fid"}, "the metric is clean_fid"),
        ({"kind": "inception", "weights": "w", "sha256": OTHER_SHA256}, "name fid: .* need a name fd_<name>"),
        ({"kind": "inception", "weights": "w", "sha256": OTHER_SHA256, "name": "fid"}, "need a name fd_<name>"),
        ({"kind": "inception", "weights": "w", "sha256": "67"}, "sha256"),
        ({"kind": "inception", "weights": "w", "seeded": True}, "leave out weights or seeded"),
        ({"kind": "inception", "seeded": True, "sha256": INCEPTION_SHA256}, "leave sha256 out"),
        ({"kind": "inception", "weights": "w", "resize": "bilinear"}, "resize"),
        ({"kind": "plugin", "name": "fid", "module": "a:b"}, "need a name fd_<name>"),
        ({"kind": "plugin", "name": "fd_data", "module": "a:b"}, "names another net"),
        ({"kind": "plugin", "name": "fd_clf_digits", "module": "a:b"}, "names another net"),
        ({"kind": "plugin", "name": "fd_x", "module": "os.system('x')"}, "module"),
        ({"kind": "torchscript", "name": "fd_x", "path": "x.pt"}, "sha256"),
    ],
)
def test_a_net_that_is_not_what_its_name_says_is_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        parse(AnyNetSpec, fields)


def test_a_public_name_may_begin_like_a_reserved_one() -> None:
    assert plugin("Means", name="fd_data2vec").name == "fd_data2vec"


def test_the_digest_identifies_a_net_and_its_place_does_not() -> None:
    here, there = (InceptionNetSpec(weights=place) for place in ("a.pth", "s3://bucket/b.pth"))
    assert here.identity() == there.identity()
    seeded = InceptionNetSpec(seeded=True)
    assert seeded.identity()["sha256"] != here.identity()["sha256"]
    paths = [TorchscriptNetSpec(name="fd_x", path=path, sha256=OTHER_SHA256) for path in ("a", "b")]
    assert paths[0].identity() == paths[1].identity()


def test_relative_places_lie_below_the_data_folder(tmp_path: Path) -> None:
    assert InceptionNetSpec(weights="a.pth").located(tmp_path).weights == str(tmp_path / "a.pth")
    assert InceptionNetSpec(weights="s3://b/a.pth").located(tmp_path).weights == "s3://b/a.pth"
    scripted = TorchscriptNetSpec(name="fd_x", path="a.pt", sha256=OTHER_SHA256)
    assert scripted.located(tmp_path).path == str(tmp_path / "a.pt")
    assert plugin("Means").located(tmp_path) == plugin("Means")


def test_weights_of_another_digest_are_refused_with_both_digests(tmp_path: Path) -> None:
    path, found = saved(tmp_path / "weights.pth", state())
    with pytest.raises(DataError) as error:
        InceptionNetSpec(weights=str(path)).load("cpu")
    assert all(part in str(error.value) for part in (str(path), found, INCEPTION_SHA256, "name of its own"))


def test_missing_weights_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        inception_weights(tmp_path / "absent.pth")


@pytest.mark.parametrize("is_zipped", [True, False])
def test_counters_of_batches_may_be_absent_in_both_file_formats(tmp_path: Path, is_zipped: bool) -> None:
    full = state()
    short = {name: value for name, value in full.items() if not name.endswith("tracked")}
    path, sha256 = saved(tmp_path / "weights.pth", short, _use_new_zipfile_serialization=is_zipped)
    assert len(short) == 566 - 94
    assert state_sha256(inception_weights(path, sha256)) == state_sha256(full)


def test_half_precision_weights_become_float32(tmp_path: Path) -> None:
    path, sha256 = saved(tmp_path / "weights.pth", state(**{"fc.bias": torch.ones(1008, dtype=torch.float16)}))
    assert inception_weights(path, sha256)["fc.bias"].dtype == torch.float32


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (state(**{"fc.bias": None}), "lacks fc.bias"),
        (state(**{"AuxLogits.fc.bias": torch.zeros(3)}), "has an entry AuxLogits.fc.bias"),
        (state(**{"fc.bias": torch.zeros(1000)}), r"fc.bias is \(1000,\), this Inception network has \(1008,\)"),
        (state(**{"fc.bias": torch.full((1008,), torch.nan)}), "fc.bias has values that are not finite"),
        ([1, 2], "holds a list, not a state dict"),
    ],
    ids=["missing", "unknown", "shape", "nan", "list"],
)
def test_files_of_something_else_are_refused(tmp_path: Path, content: Any, sentence: str) -> None:
    path, sha256 = saved(tmp_path / "weights.pth", content)
    with pytest.raises(DataError, match=sentence):
        inception_weights(path, sha256)


def test_a_pickle_runs_no_code(tmp_path: Path) -> None:
    target, path = tmp_path / "made", tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps(Planted(target), protocol=2))
    with pytest.raises(DataError, match="not a file of PyTorch weights"):
        inception_weights(path, hashlib.sha256(path.read_bytes()).hexdigest())
    assert not target.exists()


def test_bytes_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError, match="not a file of PyTorch weights"):
        inception_weights(path, hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture(scope="module")
def seeded() -> LoadedNet:
    return InceptionNetSpec(seeded=True).load("cpu")


def images(n: int, *, channels: int = 3) -> Tensor:
    return 2 * torch.rand(n, channels, 8, 8, generator=torch.Generator().manual_seed(0)) - 1


def test_features_do_not_depend_on_the_rest_of_the_batch(seeded: LoadedNet) -> None:
    x = images(seeded.num_at_once + 1)
    together = seeded.features(x)
    for i in (0, seeded.num_at_once):
        assert torch.equal(together[i : i + 1], seeded.features(x[i : i + 1]))


def test_bfloat16_features_are_near_the_exact_ones_and_not_equal(seeded: LoadedNet) -> None:
    x = images(2)
    exact, fast = seeded.features(x), InceptionNetSpec(seeded=True, fast=True).load("cpu").features(x)
    distance = float((exact - fast).norm() / exact.norm())
    assert fast.dtype == torch.float32
    assert 1e-4 < distance < 1e-2


def test_a_loaded_net_says_what_it_is(seeded: LoadedNet) -> None:
    assert (seeded.name, seeded.preprocessing, seeded.has_logits) == ("fd_rand_inception", "tf1-299", True)
    assert seeded.sha256 == InceptionNetSpec(seeded=True).sha256


@pytest.mark.parametrize("x", [255 * images(2).abs(), images(2) * torch.nan, images(2)[0], images(2).to(torch.uint8)])
def test_images_of_another_kind_are_refused_by_the_name_of_the_net(x: Tensor) -> None:
    with pytest.raises(DataError, match=r"net fd_means: images .* \[-1, 1\]|net fd_means: images of shape"):
        plugin("Means").load("cpu").features(x)


def test_an_imported_module_reads_grey_images_as_rgb_and_may_have_logits() -> None:
    net = plugin("Means").load("cpu")
    white = net.features(torch.ones(2, 1, 4, 4))
    torch.testing.assert_close(white, torch.tensor([[1.0, 2.0, 3.0]] * 2))
    torch.testing.assert_close(net.features(-torch.ones(1, 1, 4, 4)), -white[:1])
    assert net.has_logits
    torch.testing.assert_close(net.logits(white), white[:, :2])


def test_an_imported_module_is_identified_by_its_weights() -> None:
    found = state_sha256(Means().state_dict())
    assert plugin("Means").load("cpu").sha256 == plugin("Means", sha256=found).load("cpu").sha256 == found
    with pytest.raises(DataError, match=f"is {found}, expected {OTHER_SHA256}"):
        plugin("Means", sha256=OTHER_SHA256).load("cpu")
    other = Means()
    other.weight.data += 1e-7
    assert state_sha256(other.state_dict()) != found


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        ("no_such_package:net", "no_such_package:net cannot be imported .*check it and PYTHONPATH"),
        (f"{HERE}:absent", "absent cannot be imported"),
        (f"{HERE}:number", "gives a int; it must return an nn.Module"),
    ],
)
def test_an_import_that_gives_no_module_is_refused(module: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        PluginNetSpec(name="fd_means", module=module).load("cpu")


@pytest.mark.parametrize(("module", "sentence"), [("Broken", "not finite"), ("Maps", "expected rows")])
def test_features_that_are_no_finite_rows_are_refused(module: str, sentence: str) -> None:
    net = plugin(module).load("cpu")
    assert not net.has_logits
    with pytest.raises(DataError, match=f"net fd_means: features .*{sentence}"):
        net.features(images(2))


def test_a_net_without_classes_has_no_logits() -> None:
    with pytest.raises(ValueError, match="no classes"):
        plugin("Broken").load("cpu").logits(torch.zeros(1, 3))


def scripted(path: Path) -> str:
    torch.jit.save(torch.jit.trace(Means(), torch.zeros(1, 3, 8, 8)), path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_torchscript_file_gives_the_features_of_its_module(tmp_path: Path) -> None:
    sha256 = scripted(tmp_path / "net.pt")
    net = TorchscriptNetSpec(name="fd_x", path=str(tmp_path / "net.pt"), sha256=sha256).load("cpu")
    assert (net.name, net.sha256, net.has_logits) == ("fd_x", sha256, False)
    x = images(3)
    assert torch.equal(net.features(x), plugin("Means").load("cpu").features(x))


def test_a_torchscript_file_of_another_digest_or_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    scripted(path)
    spec = TorchscriptNetSpec(name="fd_x", path=str(path), sha256=OTHER_SHA256)
    with pytest.raises(DataError, match=f"expected {OTHER_SHA256}"):
        spec.load("cpu")
    path.write_bytes(b"no module")
    with pytest.raises(DataError, match="not a TorchScript file"):
        spec.model_copy(update={"sha256": hashlib.sha256(b"no module").hexdigest()}).load("cpu")


def test_weights_are_fetched_from_s3_by_their_digest(
    tmp_path: Path, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPELINE_CACHE_DIR", str(tmp_path / "cache"))
    path, sha256 = saved(tmp_path / "weights.pth", state())
    bucket = s3_url.removeprefix("s3://").split("/")[0]
    boto3.client("s3").put_object(Bucket=bucket, Key="weights.pth", Body=path.read_bytes())
    location = f"s3://{bucket}/weights.pth"
    assert state_sha256(inception_weights(location, sha256)) == state_sha256(state())
    with pytest.raises(DataError, match=f"sha256 is {sha256}, expected {OTHER_SHA256}"):
        inception_weights(location, OTHER_SHA256)
