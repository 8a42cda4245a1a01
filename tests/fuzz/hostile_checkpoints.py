"""Checkpoint directories in which one file is wrong: drawn by a seed, loaded one after the other.

    python hostile_checkpoints.py FOLDER SEED FIRST COUNT
    python hostile_checkpoints.py FOLDER NAME              # one of `GIANTS`

FOLDER holds `json` and `sentencepiece`, two sound checkpoints (`make_bases`). Each case is a
`ConfigError`, or loads and scores; anything else ends the process, and the last line of stdout says
in which case. So does more CPU time than `CASE_CPU_S` for one case, and more memory than `MOST_MB`.
"""

from __future__ import annotations

import json
import random
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from checkpoints import CONTROLS, make_checkpoint, make_sentencepiece
from fuzz.mutations import mutate
from safetensors.torch import load_file, save_file
from sample_records import GROUPS
from sentencepiece.sentencepiece_model_pb2 import ModelProto, TrainerSpec

from polar_ray.checkpoint import check
from polar_ray.config import NativeEngineConfig, ScorerConfig
from polar_ray.errors import ConfigError
from polar_ray.scorer import Scorer

CASE_CPU_S = 5
MOST_MB = 1000
INDEX = "model.safetensors.index.json"

WRONG: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 7, 64, 2**31, 2**32 + 1, 2**63, 2**64, 10**9, 10**30, 0.5,
    -0.0, 1e-320, 1e308, "", "0", "\x00", "\ufffd", "<s>", "<|reward|>", "linear", "../model",
    "x" * 70_000, "\u2581" * 3000, [], {}, [[]], [0], [2**40, 2**40], {"type": "dynamic"},
    {"content": "<s>"}, {"": ""}, "deep list", "deep object",
]  # fmt: skip
"""What stands in place of a value. The deep ones are put in as text."""


def make_bases(folder: Path) -> None:
    """One checkpoint of a file and tokenizer.json; one of two files, tokenizer.model and added
    scaling of RoPE."""
    make_checkpoint(folder / "json")
    other = make_checkpoint(folder / "sentencepiece", rope_kind="dynamic", rope_factor=2.0)
    (other / "tokenizer.json").unlink()
    make_sentencepiece(other)
    tensors = load_file(other / "model.safetensors")
    (other / "model.safetensors").unlink()
    places = {}
    for number in range(2):
        names = sorted(tensors)[number::2]
        file = f"model-{number}.safetensors"
        save_file({name: tensors[name] for name in names}, other / file)
        places |= dict.fromkeys(names, file)
    (other / INDEX).write_text(json.dumps({"weight_map": places}))


def run_cases(folder: Path, seed: int, first: int, count: int) -> dict[str, Any]:
    """What became of the cases `first` and on."""
    seen: Counter[str] = Counter()
    messages = 0
    for number in range(first, first + count):
        chance = random.Random(f"{seed} {number}")
        base = folder / chance.choice(("json", "sentencepiece"))
        path = chance.choice(sorted(base.glob("*.*")))
        sound = path.read_bytes()
        print(number, base.name, path.name, flush=True)
        path.write_bytes(damaged(path.name, sound, chance))
        try:
            outcome = load(base)
        finally:
            path.write_bytes(sound)
        kind = path.name if path.suffix != ".safetensors" else "header"
        seen[f"{kind}: {'refused' if outcome else 'works'}"] += 1
        messages = max(messages, len(outcome))
    return {**dict(sorted(seen.items())), "peak MB": peak_mb(), "longest message": messages}


def load(folder: Path) -> str:
    """Why a checkpoint is refused; "" if it scores. Both ways of looking at one must agree."""
    config = ScorerConfig(model=str(folder), engine=NativeEngineConfig(num_threads=1))
    signal.setitimer(signal.ITIMER_PROF, CASE_CPU_S)  # its signal ends the process
    try:
        check(config)
        early = ""
    except ConfigError as error:
        early = str(error)
    late, scorer = "", None
    signal.setitimer(signal.ITIMER_PROF, CASE_CPU_S)
    try:
        scorer = Scorer(config)
    except ConfigError as error:
        late = str(error)
    signal.setitimer(signal.ITIMER_PROF, 0)
    assert peak_mb() < MOST_MB, f"{peak_mb()} MB"
    assert bool(early) == bool(late), f"check says {early!r}, Scorer {late!r}"
    if scorer is None:
        return late
    table = scorer.score(GROUPS[:2])
    scorer.close()
    for row in table.to_pylist():
        assert (row["error"] is None) == (row["score"] is not None and np.isfinite(row["score"]))
    return ""


def peak_mb() -> int:
    """The most memory that this program has had. Not `ru_maxrss`, which counts what the process was
    before it became this program: a copy of the one that runs the tests."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 // 1_000_000


def damaged(name: str, sound: bytes, chance: random.Random) -> bytes:
    """A file's content with something wrong in it."""
    if chance.random() < 0.25:
        return mutate(sound, chance)
    if name.endswith(".json"):
        return twisted(sound, chance)
    if name == "tokenizer.model":
        return twisted_pieces(sound, chance)
    length = int.from_bytes(sound[:8], "little")
    header, data = sound[8 : 8 + length], sound[8 + length :]
    if chance.random() < 0.2:
        lie = chance.choice((0, 1, length - 1, length + 1, 2**31, 2**40, 2**63, 2**64 - 1))
        return lie.to_bytes(8, "little") + header + data
    header = twisted(header, chance)
    if chance.random() < 0.1:
        data = data[: chance.randrange(len(data))]
    return len(header).to_bytes(8, "little") + header + data


def twisted(sound: bytes, chance: random.Random) -> bytes:
    """JSON with some values, keys or items replaced, dropped or moved."""
    value = json.loads(sound)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        value = twist(value, chance)
    text = json.dumps(value)
    for deep, (begin, end) in {"deep list": "[]", "deep object": "{}"}.items():
        depth = chance.choice((100, 1000, 100_000))
        inner = '{"a":' if begin == "{" else begin
        text = text.replace(f'"{deep}"', inner * depth + "0" + end * depth)
    return text.encode()


def twist(value: Any, chance: random.Random) -> Any:
    """The same with one wrong thing somewhere in it."""
    if not isinstance(value, (dict, list)) or not value or chance.random() < 0.02:
        return chance.choice(WRONG)
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = chance.choice(list(keys))
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    match chance.randrange(8):
        case 0:
            del copy[key]
        case 1 if isinstance(copy, dict):
            copy[chance.choice(("", "x", "type", "rope_scaling", "rope_theta"))] = copy.pop(key)
        case 2:
            copy[key] = copy[chance.choice(list(keys))]
        case 3:
            copy[key] = chance.choice(WRONG)
        case _:
            copy[key] = twist(copy[key], chance)
    return copy


def twisted_pieces(sound: bytes, chance: random.Random) -> bytes:
    """A sentencepiece model with some fields and pieces that are others."""
    proto = ModelProto()
    proto.ParseFromString(sound)
    for _ in range(chance.choice((1, 1, 2, 4))):
        piece, spec, trained = (
            chance.choice(proto.pieces),
            proto.normalizer_spec,
            proto.trainer_spec,
        )
        match chance.randrange(12):
            case 0:
                piece.type = chance.randrange(1, 7)
            case 1:
                piece.piece = chance.choice(("", "a", "\x00", "<|reward|>", "x" * 9999))
            case 2:
                piece.score = chance.choice((0.0, 1e38, float("inf"), float("nan")))
            case 3:
                proto.pieces.add(piece=chance.choice(("", "new", "<|reward|>", "[UNUSED_TOKEN_1]")))
            case 4:
                proto.pieces.pop(chance.randrange(len(proto.pieces)))
            case 5:
                spec.precompiled_charsmap = chance.randbytes(300)
            case 6:
                spec.precompiled_charsmap = (16).to_bytes(4, "little") + chance.randbytes(64)
            case 7:
                spec.add_dummy_prefix = True
            case 8:
                spec.escape_whitespaces = False
            case 9:
                trained.byte_fallback = False
            case 10:
                trained.model_type = chance.choice(TrainerSpec.ModelType.values())
            case 11:
                trained.unk_id = chance.choice((-1, 5, 10**9))
    return proto.SerializeToString()


def _json(unit: str, size: int, begin: str = "[", end: str = "]") -> bytes:
    """About `size` bytes of the same; `{n}` in `unit` counts."""
    each = len(unit.replace("{n}", "123456")) + 1
    return (
        f"{begin}{','.join(unit.replace('{n}', str(n)) for n in range(size // each))}{end}".encode()
    )


def _header(size: int) -> bytes:
    tensor = '"t{n}":{"dtype":"F32","shape":[],"data_offsets":[0,0]}'
    header = _json(tensor, size, "{", "}")
    return len(header).to_bytes(8, "little") + header


def _model(*pieces: str) -> bytes:
    proto, kind = ModelProto(), ModelProto.SentencePiece
    for name in CONTROLS:
        proto.pieces.add(piece=name, type=kind.UNKNOWN if name == "<unk>" else kind.CONTROL)
    for piece in pieces:
        proto.pieces.add(piece=piece)
    return proto.SerializeToString()


def _vocabulary(size: int) -> bytes:
    inner = _json('"{n}":{n}', size, "{", "}").decode()
    return f'{{"model":{{"type":"BPE","vocab":{inner},"merges":[]}}}}'.encode()


def _normalizing(normalizer: dict[str, Any]) -> bytes:
    """A sound tokenizer but for its normalizer, through which its own token goes, too."""
    vocab = {name: number for number, name in enumerate([*CONTROLS, "x"])}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
    added = [{"id": 6, "content": "xy", "special": False, **plain}]
    added += [{"id": n, "content": c, "special": True, **plain} for n, c in enumerate(CONTROLS)]
    model = {"type": "BPE", "vocab": vocab, "merges": []}
    return json.dumps({"added_tokens": added, "normalizer": normalizer, "model": model}).encode()


def _chain(step: dict[str, Any], count: int) -> bytes:
    return _normalizing({"type": "Sequence", "normalizers": [step] * count})


DOUBLE = {"type": "Replace", "pattern": {"String": "x"}, "content": "xx"}
TWO_BYTES = [chr(number) for number in range(0x80, 0x800)]
GIANTS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "config of lists": ("config.json", lambda: _json("[]", 1_048_000, '{"architectures":[', "]}")),
    "config of keys": ("config.json", lambda: _json('"{n}":{}', 1_048_000, "{", "}")),
    "config over its limit": ("config.json", lambda: b"[" * 100_000_000),
    "tokenizer of lists": ("tokenizer.json", lambda: _json("[]", 8_380_000, '{"x":[', "]}")),
    "tokenizer of objects": ("tokenizer.json", lambda: _json("{}", 8_380_000, '{"model":[', "]}")),
    "added tokens of numbers": (
        "tokenizer.json",
        lambda: _json("1", 8_380_000, '{"added_tokens":[', "]}"),
    ),
    "vocabulary": ("tokenizer.json", lambda: _vocabulary(8_380_000)),
    "letters doubled": ("tokenizer.json", lambda: _chain(DOUBLE, 24)),
    "letters put first": (
        "tokenizer.json",
        lambda: _chain({"type": "Prepend", "prepend": "x" * 100_000}, 80),
    ),
    "a letter of megabytes": (
        "tokenizer.json",
        lambda: _normalizing({**DOUBLE, "content": "x" * 8_000_000}),
    ),
    "steps": ("tokenizer.json", lambda: _chain({"type": "NFC"}, 400_000)),
    "controls": (
        "tokenizer_config.json",
        lambda: _json('"{n}":1', 1_048_000, '{"added_tokens_decoder":{', "}}"),
    ),
    "header of tensors": ("model.safetensors", lambda: _header(8_380_000)),
    "header of lists": (
        "model.safetensors",
        lambda: (8_000_000).to_bytes(8, "little") + b"[" * 8_000_000,
    ),
    "index of files": (
        INDEX,
        lambda: _json('"{n}":"{n}.safetensors"', 1_048_000, '{"weight_map":{', "}}"),
    ),
    "pieces": ("tokenizer.model", lambda: _model(*map(str, range(450_000)))),
    "empty pieces": ("tokenizer.model", lambda: b"\n\x00" * 3_000_000),
    "a piece of pairs": (
        "tokenizer.model",
        lambda: _model("".join(random.Random(0).choices(TWO_BYTES, k=3_000_000))),
    ),
}  # fmt: skip
"""Files as large as they may be, or larger, by what there is too much of."""


def run_giant(folder: Path, name: str) -> dict[str, Any]:
    """What one of `GIANTS` costs; it must be refused."""
    file, make = GIANTS[name]
    base = folder / ("sentencepiece" if file in (INDEX, "tokenizer.model") else "json")
    print(name, flush=True)
    (base / file).write_bytes(make())
    before, began = peak_mb(), time.process_time()
    reason = load(base)
    assert reason
    cost = {"cpu_s": round(time.process_time() - began, 2), "mb": [before, peak_mb()]}
    return {**cost, "reason": reason[:150].replace(str(folder), "")}


if __name__ == "__main__":
    # Whatever goes wrong here, the machine is not to suffer for it.
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + (4 << 30), held + (4 << 30)))
    place, *rest = sys.argv[1:]
    run = run_giant if rest[0] in GIANTS else run_cases
    print(json.dumps(run(Path(place), *(word if run is run_giant else int(word) for word in rest))))
