"""A checkpoint directory without running it: its config, weights, tokenizer and control tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from polar_ray.encoding import Tokenizer, has_tokenizer, load_tokenizer, template
from polar_ray.model import load_config, load_model
from polar_ray.verify.check import Check, Failed, Skip, check
from polar_ray.verify.published import compare
from polar_ray.verify.samples import RECORDS


def checkpoint_checks(folder: Path) -> Iterator[Check]:
    """One after the other; later ones may fail for what an earlier one has named."""
    yield check("config", lambda: _config(folder))
    weights = check("weights", lambda: _weights(folder))
    yield weights
    yield check("published config", lambda: _published(folder, weights))
    yield check("tokenizer", lambda: _tokenizer(folder))
    yield check("control tokens", lambda: _controls(folder))
    yield check("text stays text", lambda: _text_stays_text(folder))


def _load_tokenizer(folder: Path) -> Tokenizer:
    if not has_tokenizer(folder):
        raise Skip("there is no tokenizer here: token ids can be scored, text cannot")
    return load_tokenizer(folder)


def _config(folder: Path) -> str:
    c = load_config(folder)
    window = c.window or "no bound"
    return (
        f"{c.num_hidden_layers} layers, width {c.hidden_size}, {c.num_attention_heads} heads "
        f"({c.num_key_value_heads} for keys), vocabulary {c.vocab_size}, window {window}"
    )


def _weights(folder: Path) -> str:
    model = load_model(folder)
    bad = [n for n, t in model.named_parameters() if not bool(torch.isfinite(t).all())]
    if bad:
        raise Failed(f"NaN or infinity in {len(bad)} tensor(s), such as {bad[0]}")
    if not bool(model.v_head.weight.any()):
        raise Failed("v_head is all zeros: every score is 0; is this model trained?")
    kinds = sorted({str(t.dtype).removeprefix("torch.") for t in model.parameters()})
    count = sum(t.numel() for t in model.parameters())
    return f"{count:,} parameters in {', '.join(kinds)}, all finite"


def _published(folder: Path, weights: Check) -> str:
    if weights.status == "fail":  # a file of any size would be hashed
        raise Skip("it is looked up by the weights' digest, and they are not sound")
    return compare(folder)


def _tokenizer(folder: Path) -> str:
    tokenizer, c = _load_tokenizer(folder), load_config(folder)
    if tokenizer.vocab_size > c.vocab_size:
        raise Failed(f"{tokenizer.vocab_size} ids, but embeddings for {c.vocab_size} only")
    texts = {text for record in RECORDS for text in record.values()}
    changed = [text for text in texts if tokenizer.decode(tokenizer.encode(text)) != text]
    if changed:
        raise Failed(f"{changed[0]!r:.60} comes back from its ids as another text")
    return f"{tokenizer.vocab_size} ids; texts come back from their ids unchanged"


def _controls(folder: Path) -> str:
    tokenizer, c = _load_tokenizer(folder), load_config(folder)
    separator = tokenizer.control_id(template.SEPARATOR)
    for name, number in ((template.SEPARATOR, separator), ("BOS", tokenizer.bos_id)):
        if not 0 <= number < c.vocab_size:
            raise Failed(f"{name} is {number}, beyond the {c.vocab_size} embeddings")
    if len({separator, tokenizer.bos_id, c.reward_token_id}) < 3:
        raise Failed("separator, BOS and reward token are not three different ids")
    said = f"{template.SEPARATOR} {separator}, reward token {c.reward_token_id}"
    if template.REWARD_TOKEN in tokenizer.controls:
        number = tokenizer.control_id(template.REWARD_TOKEN)
        if number != c.reward_token_id:
            raise Failed(
                f"config.json reads rewards at {c.reward_token_id}, the tokenizer's "
                f"{template.REWARD_TOKEN} is {number}"
            )
    return f"{said}, BOS {tokenizer.bos_id}"


def _text_stays_text(folder: Path) -> str:
    tokenizer, c = _load_tokenizer(folder), load_config(folder)
    numbers = {tokenizer.control_id(name) for name in tokenizer.controls} | {c.reward_token_id}
    for name in sorted(tokenizer.controls):
        for text in (name, f"a{name}b", f"\n{name}\n"):
            if found := numbers & set(tokenizer.encode(text)):
                raise Failed(f"{text!r:.60} in a rollout becomes control id {min(found)}")
    return f"none of {len(tokenizer.controls)} control strings becomes a control id"
