"""`polar-ray plan`: how large a pool must be for a load."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from polar_ray.cli.app import SETTINGS_FILE, cli, errors_on_stderr, parse_settings
from polar_ray.config import PoolConfig
from polar_ray.errors import ConfigError

if TYPE_CHECKING:
    from polar_ray.capacity import Load, Plan
    from polar_ray.model import ModelConfig

OWNER = "internlm"
LARGEST = f"{OWNER}/POLAR-7B"
NUMBER = re.compile(r"\s*[0-9]{1,18}\s*")  # int() takes more than people mean


@cli.command()
def plan(
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            help=f"{SETTINGS_FILE} model=internlm/POLAR-1_8B, engine.dtype=fp8.",
            show_default=False,
        ),
    ] = None,
    records_per_s: Annotated[float, typer.Option(help="Records a second, when most come.")] = 100.0,
    tokens: Annotated[
        str, typer.Option(help="Tokens of a prompt, a reference and an output: 300,500,800.")
    ] = "300,500,800",
    group: Annotated[int, typer.Option(help="Outputs of one prompt that come together.")] = 16,
    gpu: Annotated[str, typer.Option(help="H200, H100, ...; cpu is tried on this one.")] = "H200",
    calls: Annotated[
        Literal["batches", "joined", "http"],
        typer.Option(help="Batches; single records through connect; or as JSON over HTTP."),
    ] = "batches",
    seconds: Annotated[float, typer.Option(min=1, help="How long a CPU is tried.")] = 10.0,
) -> None:
    """Say how large a pool must be for a load, and on what that rests."""
    with errors_on_stderr("engine"):
        from polar_ray.capacity import CPU, Load, cut, device_named, make_plan, measured
        from polar_ray.encoding import limits

        on_cpu = gpu.lower() == CPU
        config = parse_settings(PoolConfig, {}, settings)
        if config.model is None and not on_cpu:  # nobody buys GPUs for the built-in one
            config = config.model_copy(update={"model": LARGEST})
        load = Load(records_per_s, *_lengths(tokens), group)
        model = _model(config, on_cpu=on_cpu)
        if on_cpu:
            scored, _ = cut(load, limits(config.encoding, model.window))
            found = make_plan(
                config, model, load, measured=measured(config, scored, seconds=seconds), calls=calls
            )
        else:
            found = make_plan(config, model, load, device=device_named(gpu), calls=calls)
        _show(found, load, config)


def _lengths(text: str) -> tuple[int, int, int]:
    parts = text.split(",")
    for part in parts:
        if not NUMBER.fullmatch(part):
            raise ConfigError(f"--tokens {text}: {part!r} is no number (prompt,reference,output)")
    if len(parts) != 3:
        raise ConfigError(f"--tokens {text}: three numbers, prompt,reference,output")
    prompt, reference, output = map(int, parts)
    return prompt, reference, output


def _model(config: PoolConfig, *, on_cpu: bool) -> ModelConfig:
    """The shape of the model: POLAR's own are known, so that none of them is fetched for this. A
    folder is read, whatever its name."""
    from polar_ray.checkpoint import model_dir
    from polar_ray.hub import is_name
    from polar_ray.model import ModelConfig, load_config
    from polar_ray.verify.published import POLAR

    owner, _, name = (config.model or "").partition("@")[0].partition("/")
    known = owner == OWNER and name in POLAR and is_name(config.model or "")
    if known and not on_cpu:
        return ModelConfig(max_position_embeddings=32768, **POLAR[name])
    return load_config(model_dir(config.model))


def _show(found: Plan, load: Load, config: PoolConfig) -> None:
    """A table for a person, one object of JSON for a pipe."""
    if not sys.stdout.isatty():
        from dataclasses import asdict

        import orjson

        typer.echo(orjson.dumps({**asdict(found), "settings": settings_of(found, config)}))
        return
    from rich.console import Console
    from rich.markup import escape

    from polar_ray.cli.printing import table_of

    console, shown = Console(), table_of("", "", show_header=False, box=None)
    for name, value in rows(found):
        shown.add_row(name, escape(value))
    console.print(
        f"{load.records_per_s:,g} records/s of {load.tokens:,} tokens, {load.group} a group"
    )
    console.print(shown)
    for note in found.notes:
        console.print(f"note: {note}", highlight=False, markup=False)
    for assumption in found.assumptions:
        console.print(f"assumed: {assumption}", highlight=False, markup=False, style="dim")
    made = " ".join(settings_of(found, config))
    console.print(f"settings: {made}", highlight=False, markup=False)


def rows(found: Plan) -> list[tuple[str, str]]:
    """A plan in words."""
    number, what = (found.devices, "GPU") if found.devices else (found.cpus, "core")
    each = f"{number:g} {what}{'' if number == 1 else 's'}"
    weights = f"{found.weights_bytes / 1e9:,.1f} GB of weights"
    return [
        ("replicas", f"{found.replicas:,}, busy {found.busy:.0%} of the time"),
        ("each", f"{each}, {found.records_per_s:,.1f} records/s, {weights} on each device"),
        ("host memory", f"{found.replica_bytes / 1e9:,.0f} GB a replica"),
        ("routers", f"{found.routers:,}, {found.router_bytes / 1e9:,.1f} GB each"),
        ("object store", f"{found.object_store_bytes / 1e9:,.1f} GB over all nodes"),
    ]


def settings_of(found: Plan, config: PoolConfig) -> list[str]:
    """The settings that make it, for `polar-ray serve`: those that were given, and what is planned
    in place of the rest."""
    given = config.model_dump(mode="json", exclude_unset=True)
    made = [f"num_replicas={found.replicas}", f"num_routers={found.routers}"]
    made += [f"num_gpus={found.devices}"] if found.devices else [f"num_cpus={found.cpus:g}"]
    made += [f"engine.tensor_parallel_size={found.devices}"] if found.devices > 1 else []
    return [*(f"{name}={value}" for name, value in _flat(given) if name not in PLANNED), *made]


PLANNED = ("num_replicas", "min_replicas", "max_replicas", "autoscaling", "num_routers",
           "num_gpus", "num_cpus", "engine.type", "engine.tensor_parallel_size")  # fmt: skip
"""Settings whose values a plan says."""


def _flat(values: dict[str, Any], before: str = "") -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        elif value is not None:
            yield f"{before}{name}", value
