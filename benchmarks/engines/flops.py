"""Floating-point operations as executed: counts the matrix products that torch really runs.

Against `polar_ray.planning.cost`, which says beforehand what there should be.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from polar_ray.model.linear import find_onednn


def count_flops(run: Callable[[], object]) -> int:
    """Operations of the matrix products and attention calls within `run`, masked pairs included."""
    # torch knows the flash kernels of CUDA, not the one of the CPU, and neither a product that is
    # added in place nor one of oneDNN.
    known: dict[Any, Any] = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        torch.ops.aten.addmm_: _added,
    }
    if (onednn := find_onednn()) is not None:
        known[onednn.linear] = _linear
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        run()
    return int(counter.get_total_flops())


def _linear(inputs_shape: Any, weight_shape: Any, *args: Any, **kwargs: Any) -> int:
    return 2 * math.prod(inputs_shape) * int(weight_shape[0])


def _added(sum_shape: Any, left_shape: Any, right_shape: Any, *args: Any, **kwargs: Any) -> int:
    return 2 * math.prod(left_shape) * int(right_shape[1])


def _attention(
    query_shape: Any, key_shape: Any, value_shape: Any, *args: Any, **kwargs: Any
) -> int:
    flops: int = sdpa_flop_count(query_shape, key_shape, value_shape)
    return flops
