"""Room for a second model: pure decisions, and what this machine says of its memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from polar_ray.config import NativeEngineConfig, StubEngineConfig
from polar_ray.engine import fits_beside
from polar_ray.engine.memory import available, choose
from polar_ray.errors import ConfigError

GB = 10**9


@pytest.mark.parametrize(
    ("size", "free", "held", "beside"),
    [
        (14 * GB, 60 * GB, 20 * GB, True),
        (14 * GB, 28 * GB, 20 * GB, True),
        (14 * GB, 27 * GB, 20 * GB, False),
        (14 * GB, 0, 14 * GB, False),
        (14 * GB, 5 * GB, None, False),
    ],
)
def test_two_models_stand_beside_each_other_where_both_can_compute(
    size: int, free: int, held: int | None, beside: bool
) -> None:
    assert choose(size, free, held) is beside


def test_what_does_not_fit_in_the_others_place_either_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"take 14\.0 GB, .* have 13\.0 GB without the model"):
        choose(14 * GB, 3 * GB, 10 * GB)


def test_ranks_are_never_two_at_once(tiny_dir: Path) -> None:
    assert fits_beside(NativeEngineConfig(device="cpu"), tiny_dir)
    assert fits_beside(StubEngineConfig(), tiny_dir)
    assert not fits_beside(NativeEngineConfig(device="cpu", tensor_parallel_size=2), tiny_dir)


MEMINFO = "MemTotal: 100 kB\nMemAvailable: 50 kB\n"


@pytest.mark.parametrize(
    ("most", "available_kb"), [(None, 50), ("max", 50), ("40960", 40 - 30 + 5), ("10240000", 50)]
)
def test_a_container_has_what_its_limit_leaves(
    tmp_path: Path, most: str | None, available_kb: int
) -> None:
    (tmp_path / "meminfo").write_text(MEMINFO)
    if most is not None:
        (tmp_path / "memory.max").write_text(f"{most}\n")
        (tmp_path / "memory.current").write_text(f"{30 * 1024}\n")
        (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {5 * 1024}\n")
    assert available(tmp_path / "meminfo", tmp_path) == available_kb * 1024
