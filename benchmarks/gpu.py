"""The native engine on one GPU that is lent for half an hour: three commands, ten minutes each.

    python benchmarks/gpu.py wheels                              # where packages can be fetched
    python benchmarks/gpu.py correctness | figures | variants [--out DIR] [--shapes 7B,1.8B]

Right first, then fast: `correctness` holds kernels against float64 and scores against golden
ones, `figures` measures rates, latency, memory and time by kernel, `variants` turns one thing at a
time on and off, with how far scores move beside the speed. Weights are random and made on the
device. The report in DIR is whole after each step, and a step that fails leaves its error and stops
no other.
`--device cpu --shapes tiny --quick` goes through every step on any machine.

Needs torch, and of packages that machines with torch may lack: those of `WHEELS`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE), str(ROOT)]
os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")

WHEELS = [
    *("annotated-types", "numpy", "orjson", "pyarrow", "pydantic", "pydantic-core", "safetensors"),
    *("tqdm", "typing-extensions", "typing-inspection"),
]
WHEEL_FOLDER = ROOT / ".wheels"
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 17)] + ["manylinux2014_x86_64"]


def fetch_wheels(into: Path, python: str, packages: list[str]) -> None:
    """Wheels of `packages`, for a Linux machine that reaches no index. There:
    `python3 -m pip install --no-index --no-deps --target DIR .wheels/*.whl`, PYTHONPATH=DIR."""
    into.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--only-binary=:all:", "--dest", str(into)]
    command += ["--python-version", python, "--implementation", "cp"]
    command += [option for name in PLATFORMS for option in ("--platform", name)]
    subprocess.run([*command, *packages], check=True)


def correctness(arguments: argparse.Namespace, folder: Path) -> list[str]:
    """Whether what is computed is right."""
    from engines.gpu_checks import Checks
    from engines.steps import Report

    checks = Checks(folder, arguments.device, quick=arguments.quick)
    report = Report(arguments.out / "correctness.json", seconds=arguments.seconds)
    report.step("versions", checks.versions)
    golden = sorted((ROOT / "tests/golden/model").iterdir())
    for model in golden[:2] if arguments.quick else golden:
        report.step(f"golden {model.name}", partial(checks.golden, model))
    for shape in arguments.shapes:
        report.step(f"{shape} loaded", partial(checks.smoke, shape))
        for case in checks.packs:
            report.step(f"{shape} attention {case}", partial(checks.attention, shape, case))
        report.step(f"{shape} attention of a layer", partial(checks.whole_engine, shape))
        report.step(f"{shape} prefix cache", partial(checks.prefix_cache, shape))
        report.step(
            f"{shape} prefix cache, graphs", partial(checks.prefix_cache, shape, graphs=True)
        )
        report.step(f"{shape} fp8 by rows", partial(checks.fp8_rows, shape))
        report.step(f"{shape} out of memory", partial(checks.out_of_memory, shape))
    # A machine that has no more than `WHEELS` has no pytest.
    if arguments.device == "cuda" and find_spec("pytest") is not None:
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-W", "default", "-q", "tests"]
        report.step("pytest -m gpu", partial(_run, command, 100))
    return report.failed


def figures(arguments: argparse.Namespace, folder: Path) -> list[str]:
    """Rates, latency, memory and time by kernel."""
    from engines.gpu_rates import Rates
    from engines.steps import Report

    report = Report(arguments.out / "figures.json", seconds=arguments.seconds)
    for shape in arguments.shapes:
        rates = Rates(folder, shape, arguments.device, quick=arguments.quick)
        report.step(f"{shape} products, sustained", rates.products)
        report.step(f"{shape} load", rates.load)
        for name in rates.work:
            for shared in (True, False):
                kind = "shared" if shared else "unshared"
                report.step(f"{shape} {name} {kind}", partial(rates.throughput, name, shared))
        report.step(f"{shape} latency", rates.latency)
        report.step(f"{shape} latency by graphs", partial(rates.latency, graphs=True))
        report.step(f"{shape} time by kernel", rates.time_by_kernel)
        report.step(f"{shape} peak memory", rates.peak_memory)
        report.step(f"{shape} row by row", rates.row_by_row)
        rates.close()
        if arguments.device == "cuda":
            report.step(f"{shape} fp8", partial(rates.variant, {"dtype": "fp8"}))
        report.step(f"{shape} transformers", rates.transformers)
    return report.failed


def variants(arguments: argparse.Namespace, folder: Path) -> list[str]:
    """One thing at a time on and off, twice each, with how far scores are from the first's."""
    from engines.gpu_rates import Rates
    from engines.steps import Report

    kinds: dict[str, dict[str, Any]] = {
        "as it is": {},
        "without this project's kernels": {"kernels": False},
        "packs of 8k": {"max_tokens": 8192},
        "packs of 16k": {"max_tokens": 16384},
        "packs of 64k": {"max_tokens": 65536},
        "float16" if arguments.device == "cuda" else "int8": {
            "dtype": "float16" if arguments.device == "cuda" else "int8"
        },
    }
    if arguments.device == "cuda":
        kinds["fp8"] = {"dtype": "fp8"}
    report = Report(arguments.out / "variants.json", seconds=arguments.seconds)
    for shape in arguments.shapes:
        rates = Rates(folder, shape, arguments.device, quick=arguments.quick)
        report.step(f"{shape} products, sustained", rates.products)
        for name, settings in kinds.items():
            report.step(f"{shape} {name}", partial(rates.variant, settings))
    return report.failed


def _run(command: list[str], seconds: float) -> dict[str, Any]:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds)
    if done.returncode:
        raise RuntimeError(f"{done.returncode}: {done.stdout[-1500:]}{done.stderr[-500:]}")
    return {"end": done.stdout[-1500:]}


COMMANDS: dict[str, Callable[[argparse.Namespace, Path], list[str]]] = {
    "correctness": correctness,
    "figures": figures,
    "variants": variants,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("command", choices=["wheels", *COMMANDS])
    parser.add_argument("--out", type=Path, default=Path("gpu-report"), help="folder of reports")
    parser.add_argument("--shapes", default="7B,1.8B", help="of 7B, 1.8B, prototype, tiny")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--seconds", type=float, default=480, help="no step begins later")
    parser.add_argument("--quick", action="store_true", help="small workloads, one timing each")
    parser.add_argument("--python", default="3.12", help="wheels: of the machine with the GPU")
    parser.add_argument("--packages", default=",".join(WHEELS), help="wheels: which")
    arguments = parser.parse_args()
    if arguments.command == "wheels":
        fetch_wheels(WHEEL_FOLDER, arguments.python, arguments.packages.split(","))
        return 0
    arguments.shapes = arguments.shapes.split(",")
    logging.basicConfig(level="INFO", format="%(name)s: %(message)s", stream=sys.stdout)

    import torch
    from engines.checkpoint import SHAPES
    from engines.made import made_by, random_weights

    if unknown := set(arguments.shapes) - SHAPES.keys():
        parser.error(f"--shapes: {', '.join(unknown)} is none of {', '.join(SHAPES)}")

    dtype = torch.bfloat16 if arguments.device == "cuda" else torch.float32
    with tempfile.TemporaryDirectory() as place, made_by(random_weights(arguments.device, dtype)):
        failed = COMMANDS[arguments.command](arguments, Path(place))
    print(json.dumps({"command": arguments.command, "failed": failed}))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
