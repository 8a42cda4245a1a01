"""What all settings have in common: how they are read from dicts and `key=value`, and how a wrong
one is explained.

`engine.type=stub` and other dotted keys mean the nested model, so that
`serve run polar_ray:app engine.type=stub` and the command line need no further syntax.
"""

import reprlib
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from polar_ray.errors import ConfigError


def unfold(values: dict[str, Any]) -> dict[str, Any]:
    """`{"engine.type": "stub"}` as `{"engine": {"type": "stub"}}`; other keys stay as they are."""
    nested: dict[str, Any] = {k: v for k, v in values.items() if "." not in str(k)}
    for key, value in values.items():
        if "." not in str(key):
            continue
        head, rest = key.split(".", 1)
        inner = nested.get(head, {})
        nested[head] = {**inner, rest: value} if isinstance(inner, dict) else value
    return nested


_short = reprlib.Repr()
_short.maxlevel = 3
_short.maxstring = _short.maxlong = _short.maxother = 80


def show(value: object) -> str:
    """A value in a message, cut: as Python writes it, but however large or deep it is, cheaply."""
    return f"{_short.repr(value):.80}"


class Config(BaseModel):
    """Base of all settings: frozen, unknown keys refused by name, dotted keys unfolded."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        protected_namespaces=(),
        use_attribute_docstrings=True,
    )

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # some have dicts

    @model_validator(mode="before")
    @classmethod
    def _unfold(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        nested = unfold(values)
        # pydantic would refuse these too, but not say what there is instead.
        if unknown := [f"{key}={show(value):.40}" for key, value in _unknown(cls, nested)]:
            known = ", ".join(cls.model_fields)
            near = _nearest(cls, [str(key) for key, _ in _unknown(cls, nested)])
            raise ValueError(f"{', '.join(unknown)}: no such setting; {near}there are {known}")
        return nested


def _unknown(kind: type[BaseModel], values: dict[Any, Any]) -> list[tuple[Any, Any]]:
    return [(key, value) for key, value in values.items() if key not in kind.model_fields]


def _nearest(kind: type[BaseModel], wrong: list[str]) -> str:
    """A question by which a misspelt name is put right; nothing where none is near."""
    names = {**_inner(kind), **{name: name for name in kind.model_fields}}
    near = {names[one] for key in wrong for one in get_close_matches(key, names, n=1)}
    return f"did you mean {' and '.join(sorted(near))}? " if near else ""


def _inner(kind: type[BaseModel]) -> dict[str, str]:
    """Settings within blocks, which are often named without them."""
    blocks = {name: field.annotation for name, field in kind.model_fields.items()}
    return {
        inner: f"{name}.{inner}"
        for name, block in blocks.items()
        if isinstance(block, type) and issubclass(block, BaseModel)
        for inner in block.model_fields
    }


def parse_overrides(pairs: list[str]) -> dict[str, str]:
    """`["num_replicas=2", "engine.type=stub"]` as a dict; anything else is a `ConfigError`."""
    overrides: dict[str, str] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            first = "; a file of settings goes first" if pair.endswith((".yaml", ".yml")) else ""
            raise ConfigError(f"{pair!r} is not key=value{first}")
        overrides[key] = value
    return overrides


def explain(error: ValidationError) -> ConfigError:
    """pydantic's report as one `ConfigError` that names each key and its value."""
    return ConfigError("; ".join(_sentence(dict(e)) for e in error.errors()))


def _sentence(error: dict[str, Any]) -> str:
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "value_error":  # written above, the value included
        return f"{place}: {error['ctx']['error']}" if place else str(error["ctx"]["error"])
    if error["type"] == "missing":  # its input is all that is there
        return f"{place} is missing"
    if error["type"].startswith("union_tag_"):
        key = error["ctx"]["discriminator"].strip("'")
        kinds = error["ctx"]["expected_tags"].replace("'", "")
        return f"{place}.{key}={show(error['input'].get(key))}: it is one of {kinds}"
    return f"{place or 'config'}={show(error['input'])}: {error['msg']}"
