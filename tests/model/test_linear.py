"""Linear maps by either product: the same numbers, one copy of the weights, decided once."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from checkpoints import make_checkpoint
from products import PRODUCTS, products_by
from torch import Tensor, nn

from polar_ray.config import NativeEngineConfig
from polar_ray.engine.native import NativeEngine
from polar_ray.model import linear, load_model
from polar_ray.model.linear import (
    OneDNN,
    PackedLinear,
    choose,
    find_onednn,
    pack_linears,
    time_in_turns,
    worth_packing,
)
from polar_ray.planning import Pack, build_pack


@pytest.fixture(autouse=True)
def _tried_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(linear, "LEAST_WEIGHTS", 0)
    linear._tried.cache_clear()
    yield
    linear._tried.cache_clear()


@pytest.fixture
def onednn() -> OneDNN:
    if (found := find_onednn()) is None:
        pytest.skip("this torch has no oneDNN")
    return found


def some_pack() -> Pack:
    random = np.random.default_rng(0)
    records = [random.integers(5, 400, size).astype(np.int32) for size in (3, 40, 200)]
    return build_pack(records, [-1, 0, -1], range(3))


def test_the_faster_product_is_taken_where_it_is_clearly_faster() -> None:
    assert worth_packing(105e9, 240e9)
    assert worth_packing(93e9, 107e9)
    assert not worth_packing(100e9, 105e9)  # not worth a copy, nor a coin that is tossed
    assert not worth_packing(86e9, 67e9)


def test_the_best_of_several_runs_in_turns_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "TRIAL_RUNS", 4)
    now, order = 0.0, []
    # A neighbour disturbs the first run of the one and the second of the other.
    durations = {"a": iter([9.0, 2.0, 3.0, 3.0]), "b": iter([4.0, 9.0, 5.0, 4.5])}

    def product(name: str) -> None:
        nonlocal now
        order.append(name)
        now += next(durations[name])

    found = time_in_turns([lambda: product("a"), lambda: product("b")], clock=lambda: now)
    assert found == [2.0, 4.0]
    assert order == ["a", "b"] * 4


def test_what_takes_no_time_is_repeated() -> None:
    now = 0.0

    def product() -> None:
        nonlocal now
        now += linear.TRIAL_S / 10

    assert time_in_turns([product], clock=lambda: now) == [pytest.approx(linear.TRIAL_S / 10)]


def test_a_trial_leaves_nothing_behind(onednn: OneDNN) -> None:
    before = torch.random.get_rng_state()
    assert min(linear.trial(onednn, 32, 48, torch.float32)) > 0
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 96), (100, 77), (1024, 704), (5, 1)])
@torch.inference_mode()
def test_a_packed_layer_gives_the_numbers_of_a_plain_one(
    onednn: OneDNN, inputs: int, outputs: int, bias: bool
) -> None:
    plain = nn.Linear(inputs, outputs, bias=bias)
    packed = PackedLinear(plain, onednn)
    for rows in (0, 1, 7, 64, 512, 700):
        x = torch.randn(rows, inputs)
        torch.testing.assert_close(packed(x), plain(x), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_a_row_does_not_depend_on_how_many_are_beside_it(onednn: OneDNN) -> None:
    packed = PackedLinear(nn.Linear(704, 320), onednn)
    x = torch.randn(700, 704)
    whole = packed(x)
    for start, stop in ((0, 1), (3, 10), (0, 64), (5, 69), (100, 612)):
        torch.testing.assert_close(packed(x[start:stop]), whole[start:stop], rtol=1e-6, atol=1e-6)


@torch.inference_mode()
def test_shards_are_packed_as_they_lie(onednn: OneDNN, tmp_path: Path) -> None:
    """A rank's columns are a view with gaps."""
    folder = make_checkpoint(tmp_path / "model", bias=True)
    for rank in range(2):
        model = load_model(folder, rank=rank, world_size=2)
        for layer in model.model.blocks[0].modules():
            if isinstance(layer, nn.Linear):
                x = torch.randn(9, layer.weight.shape[1])
                torch.testing.assert_close(PackedLinear(layer, onednn)(x), layer(x))


def test_no_plain_weight_is_left(tiny_dir: Path) -> None:
    model = load_model(tiny_dir)
    plain = [
        weakref.ref(layer.weight)
        for block in model.model.blocks
        for layer in block.modules()
        if isinstance(layer, nn.Linear)
    ]
    with products_by("oneDNN"):
        pack_linears(model)
    assert len(plain) == 5 * model.config.num_hidden_layers
    assert not [weight for weight in plain if weight() is not None]
    assert not [name for name in model.state_dict() if "attention.w" in name or "forward.w" in name]


def test_the_pages_of_packed_weights_are_given_back(tiny_dir: Path) -> None:
    """While another weight of the same file stays mapped."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs Linux")

    def mapped() -> int:
        return maps.read_text().count(str(tiny_dir / "model.safetensors"))

    before = mapped()
    model = load_model(tiny_dir)
    assert mapped() == before + len(model.state_dict())
    with products_by("oneDNN"):
        pack_linears(model)
    assert mapped() == before + len(model.state_dict())
    assert len(model.state_dict()) == 7


def test_packed_weights_go_with_their_engine(tiny_dir: Path, other_dir: Path) -> None:
    with products_by("oneDNN"):
        first, second = (
            NativeEngine(NativeEngineConfig(device="cpu"), folder)
            for folder in (tiny_dir, other_dir)
        )
    layers = [m for m in first.model.modules() if isinstance(m, PackedLinear)]
    assert len(layers) == 11  # of the last layer's fused projection, both parts
    weights = [weakref.ref(layer.packed_OI) for layer in layers]
    before = second.submit(some_pack()).result()
    del layers
    first.close()
    assert not [weight for weight in weights if weight() is not None]
    np.testing.assert_array_equal(second.submit(some_pack()).result(), before)


def test_neither_scores_nor_digest_depend_on_the_product(tiny_dir: Path) -> None:
    engines = []
    for name in PRODUCTS:
        with products_by(name):
            engines.append(NativeEngine(NativeEngineConfig(device="cpu"), tiny_dir))
    kinds = [{type(m) for m in engine.model.modules()} for engine in engines]
    assert [PackedLinear in found for found in kinds] == [False, True]
    by_torch, by_onednn = (engine.submit(some_pack()).result() for engine in engines)
    np.testing.assert_allclose(by_onednn, by_torch, atol=1e-5)
    assert engines[0].info.digest == engines[1].info.digest


def test_a_process_decides_once(
    onednn: OneDNN, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the same model, loaded again, could give other scores."""
    tried = []
    monkeypatch.setattr(linear, "trial", lambda *shape: tried.append(shape) or (1.0, 2.0))
    for _ in range(2):
        pack_linears(load_model(tiny_dir))
    assert len(tried) == len(set(tried)) == 3
    monkeypatch.setattr(linear, "trial", lambda *shape: (2.0, 1.0))
    assert is_packed(tiny_dir)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1000)
    assert not is_packed(tiny_dir)  # other threads, other rates


def test_small_maps_are_torchs_in_every_process(
    onednn: OneDNN, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "LEAST_WEIGHTS", 1 << 19)
    monkeypatch.setattr(linear, "trial", lambda *shape: (1.0, 9.0))
    assert not is_packed(tiny_dir)
    assert choose(nn.Linear(511, 1024, bias=False)).onednn is None
    assert choose(nn.Linear(512, 1024, bias=False)).onednn == onednn


def is_packed(folder: Path) -> bool:
    model = load_model(folder)
    pack_linears(model)
    return any(isinstance(layer, PackedLinear) for layer in model.modules())


def missing(*args: object) -> Tensor:
    raise NotImplementedError("no kernel for this CPU")


def wrong(*args: object) -> Tensor:
    return find_onednn().linear(*args) * 1.001  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("operator", "reason"),
    [(missing, "no kernel for this CPU"), (wrong, "its products are off by 0.001")],
)
def test_an_operator_that_fails_is_not_used(
    operator: object,
    reason: str,
    onednn: OneDNN,
    tiny_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(linear, "worth_packing", lambda *rates: True)
    monkeypatch.setattr(linear, "find_onednn", lambda: onednn._replace(linear=operator))
    model = load_model(tiny_dir)
    assert f"32 to 64 in float32 by torch alone (oneDNN: {reason})" in pack_linears(model)
    assert not any(isinstance(layer, PackedLinear) for layer in model.modules())


def test_a_torch_without_the_operators_multiplies_by_itself(
    tiny_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = NativeEngine(NativeEngineConfig(device="cpu"), tiny_dir).submit(some_pack()).result()
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    with caplog.at_level(logging.INFO):
        engine = NativeEngine(NativeEngineConfig(device="cpu"), tiny_dir)
    assert "matrix products: by torch alone" in caplog.text
    np.testing.assert_allclose(engine.submit(some_pack()).result(), wanted, atol=1e-5)


def test_torch_can_be_told_to_do_without(onednn: OneDNN, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    assert find_onednn() is None
