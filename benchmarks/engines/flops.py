"""Floating-point operations as executed: counts the matrix products that torch really runs.

Against `engines.cost`, which says beforehand what there should be.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


def count_flops(run: Callable[[], object]) -> int:
    """Operations of the matrix products and attention calls within `run`, masked pairs included."""
    # torch knows the flash kernels of CUDA, not the one of the CPU.
    cpu_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    with FlopCounterMode(display=False, custom_mapping={cpu_flash: _attention}) as counter:
        run()
    return int(counter.get_total_flops())


def _attention(
    query_shape: Any, key_shape: Any, value_shape: Any, *args: Any, **kwargs: Any
) -> int:
    flops: int = sdpa_flop_count(query_shape, key_shape, value_shape)
    return flops
