"""Goals, and the tables that a run prints."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from engines.foreign import VLLM
from engines.worker import NAIVE, OURS

Results = dict[str, dict[str, dict[str, Any]]]
"""Workload to competitor to its report."""

MAX_DIFFERENCE = 1e-5

TIMES_NAIVE = {"W1": 7.0, "W2": 4.6, "W3": 3.4, "W4": 2.9, "W5": 6.5, "rollouts": 9.0}
"""Goals at the prototype shape: how many times less CPU time than transformers."""

TIMES_VLLM = {"W1": 3.5, "W2": 2.3, "W3": 1.15, "W4": 1.4, "W5": 2.5, "rollouts": 2.4}
"""And than vllm."""

TIME_PER_FLOP = 1.10
"""Goal for the engine's time per operation over that of the fastest bare product."""


def add_ratios(reports: dict[str, dict[str, Any]], tokens: int) -> None:
    """Adds what compares the competitors: useful tokens per CPU second, times, differences."""
    base = reports.get(NAIVE) or reports.get(OURS)
    for report in reports.values():
        report["useful_tokens_per_cpu_s"] = tokens / report["cpu_s"]
        if base is None:
            continue
        report["times_baseline"] = base["cpu_s"] / report["cpu_s"]
        pairs = zip(report["scores"], base["scores"], strict=True)
        report["max_difference"] = max(abs(a - b) for a, b in pairs)
        flops, of_base = operations(report), operations(base)
        if flops and of_base:
            report["flops_times_baseline"] = of_base / flops
    if OURS in reports and "executed_flops" in reports[OURS]:
        ours = reports[OURS]
        ours["executed_to_planned"] = ours["executed_flops"] / ours["planned_flops"]
        ours["flops_per_cpu_s"] = ours["executed_flops"] / ours["cpu_s"]
        ours["time_per_flop_to_gemm"] = ours["gemm_flops_per_s"] / ours["flops_per_cpu_s"]


def operations(report: dict[str, Any]) -> float | None:
    """Executed operations, or planned ones where they were not counted."""
    return report.get("executed_flops", report.get("planned_flops"))


def goals(results: Results, planner: dict[str, Any] | None, shape: str) -> list[dict[str, Any]]:
    """Every goal that this run can judge: what, wanted, found, met. Goals of speed are set for the
    prototype's shape."""
    found: list[dict[str, Any]] = []

    def goal(what: str, wanted: str, value: float, met: bool) -> None:
        found.append({"goal": what, "wanted": wanted, "found": value, "met": bool(met)})

    for workload, reports in results.items():
        for name, report in reports.items():
            if "max_difference" in report:
                value = report["max_difference"]
                what = f"{workload}: {name}, difference of scores"
                goal(what, f"<= {MAX_DIFFERENCE:g}", value, value <= MAX_DIFFERENCE)
        ours = reports.get(OURS)
        if ours is None or shape != "prototype":
            continue
        for name, wanted in ((NAIVE, TIMES_NAIVE.get(workload)), (VLLM, TIMES_VLLM.get(workload))):
            if name in reports and wanted:
                value = reports[name]["cpu_s"] / ours["cpu_s"]
                goal(f"{workload}: times {name}", f">= {wanted:g}", value, value >= wanted)
        if "executed_to_planned" in ours:
            value = ours["executed_to_planned"]
            goal(f"{workload}: executed / planned FLOP", "1 +- 0.01", value, abs(value - 1) <= 0.01)
            value = ours["time_per_flop_to_gemm"]
            wanted = f"<= {TIME_PER_FLOP:g}"
            goal(f"{workload}: time per FLOP / GEMM's", wanted, value, value <= TIME_PER_FLOP)
    if planner is not None:
        value = planner["ms_per_pack_median"]
        goal("planner: ms for a pack of 16k tokens", "< 5", value, value < 5)
        value = planner["tokens_per_s"]
        goal("planner: tokens/s at many records", ">= 200000", value, value >= 200_000)
    return found


def print_results(console: Console, results: Results, facts: dict[str, dict[str, Any]]) -> None:
    """One table for all workloads."""
    table = Table(title="CPU seconds of the scoring process; useful tokens = all records' tokens")
    columns = ["workload", "engine", "tokens computed", "CPU s", "wall s", "useful tok/s"]
    columns += ["times", "GFLOP", "by FLOP", "peak MiB", "max diff"]
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < 2 else "right")
    for workload, reports in results.items():
        for name, report in reports.items():
            flops = operations(report)
            table.add_row(
                f"{workload} ({facts[workload]['records']})",
                name,
                f"{report['computed_tokens']}",
                f"{report['cpu_s']:.2f}",
                f"{report['wall_s']:.2f}",
                f"{report['useful_tokens_per_cpu_s']:.0f}",
                _number(report.get("times_baseline"), ".2f"),
                _number(flops and flops / 1e9, ".0f"),
                _number(report.get("flops_times_baseline"), ".2f"),
                f"{report['peak_mib']}",
                _number(report.get("max_difference"), ".1e"),
            )
        table.add_section()
    console.print(table)


def print_goals(console: Console, judged: list[dict[str, Any]]) -> None:
    """The goals, the missed ones in red."""
    table = Table("goal", "wanted", "found", "", title="goals")
    for one in judged:
        mark = "met" if one["met"] else "[red]missed"
        table.add_row(one["goal"], one["wanted"], f"{one['found']:.4g}", mark)
    console.print(table)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
