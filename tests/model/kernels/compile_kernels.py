"""Compiles the kernels for a GPU that need not be there, as they are launched for POLAR-7B.

    python compile_kernels.py {80 | 90} {first | all}

One JSON line for each: its name, bytes of shared memory, and of its code the matrix instructions
and the copies that it does not wait for. The interpreter runs what a compiler refuses.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from polar_ray.model.attention_choice import triton_tilings
from polar_ray.model.kernels import add_norm, gate, path_attention, rope, round_rows

NUMBERS = ("eps", "scale", "smallest", "most")
INTEGERS = ("places_ptr", "query_borders_ptr", "key_borders_ptr", "tile_runs_ptr", "tile_rows_ptr")


def compiled(
    name: str,
    kernel: Any,
    capability: int,
    options: dict[str, int],
    pointers: Mapping[str, str] = MappingProxyType({}),
    **fixed: Any,
) -> None:
    """Pointers are of 16 bits but for those of plans and what `pointers` says; they and strides are
    multiples of 16."""
    kinds, facts = {}, {}
    for number, argument in enumerate(kernel.arg_names):
        pointer, stride = argument.endswith("_ptr"), argument.endswith("_stride")
        if pointer or stride:
            facts[(number,)] = [["tt.divisibility", 16]]
        if argument in fixed:
            kinds[argument] = "constexpr"
        elif pointer:
            kinds[argument] = pointers.get(argument, "*i32" if argument in INTEGERS else "*bf16")
        else:
            kinds[argument] = "fp32" if argument in NUMBERS else "i32"
    source = ASTSource(
        kernel, kinds, {(kernel.arg_names.index(n),): v for n, v in fixed.items()}, facts
    )
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    code = made.asm["ptx"]
    print(
        json.dumps(
            {
                "kernel": name,
                "shared": made.metadata.shared,
                "products": code.count("mma.sync") + code.count("wgmma.mma"),
                "copies": code.count("cp.async.cg"),
            }
        )
    )


def main() -> None:
    capability, whole = int(sys.argv[1]), sys.argv[2] == "all"
    compiled("gate", gate._gate, capability, {}, BLOCK=gate.BLOCK)
    compiled("add_norm", add_norm._add_norm, capability, {"num_warps": 8}, BLOCK=4096)
    if capability >= 89:  # float8
        pointers = {"out_ptr": "*fp8e4nv", "scale_ptr": "*fp32"}
        kernel = round_rows._round_rows
        compiled("round_rows", kernel, capability, {"num_warps": 16}, pointers, BLOCK=16384)
    blocks = {"HALF": 64, "BLOCK_TOKENS": rope.BLOCK_TOKENS, "BLOCK_HALF": 64}
    for slots in (2, 6) if whole else (6,):
        compiled(f"rope {slots}", rope._rope, capability, {}, SLOTS=slots, **blocks)
    tried, ends = triton_tilings(4)
    for tiling in [*tried, *ends] if whole else tried[:1]:
        compiled(
            f"path_attention {tiling.rows}x{tiling.keys}",
            path_attention._path_attention,
            capability,
            {"num_warps": tiling.num_warps, "num_stages": tiling.num_stages},
            GROUP=4,
            HEAD=128,
            BLOCK_ROWS=tiling.rows,
            BLOCK_KEYS=tiling.keys,
            BLOCK_HEAD=128,
            PRODUCT=tl.bfloat16,
        )


if __name__ == "__main__":
    main()
