"""Makes tiny checkpoint directories: random InternLM2 weights and a byte-level tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from sentencepiece.sentencepiece_model_pb2 import ModelProto, TrainerSpec
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from polar_ray.model import ModelConfig, RewardModel, save_model

CONTROLS = ["<unk>", "<s>", "</s>", "<|reward|>", "[UNUSED_TOKEN_130]"]
CORPUS = [
    "The capital of China is Beijing, and the capital of France is Paris.",
    "There are 12 boxes with 24 pencils each, which makes 288 pencils in all.",
    "def area(r):\n    return 3.14 * r ** 2\n\nprint(area(2))\n",
    "长城是中国古代的防御工程。北京是中国的首都。",
]


def make_tokenizer(folder: Path) -> None:
    """tokenizer.json and tokenizer_config.json of a small byte-level BPE."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[AddedToken(name, special=True, normalized=False) for name in CONTROLS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<s>", "tokenizer_class": "NoSuchTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def make_sentencepiece(
    folder: Path,
    *,
    control: int = ModelProto.SentencePiece.USER_DEFINED,
    byte_fallback: bool = True,
) -> None:
    """tokenizer.model and tokenizer_config.json of a small BPE. `control` is the type of the pieces
    that are control tokens."""
    proto, kind = ModelProto(), ModelProto.SentencePiece
    proto.trainer_spec.model_type = TrainerSpec.BPE
    proto.trainer_spec.byte_fallback = byte_fallback
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = False
    proto.normalizer_spec.remove_extra_whitespaces = False
    pieces = [("<unk>", kind.UNKNOWN), ("<s>", kind.CONTROL), ("</s>", kind.CONTROL)]
    pieces += [(name, control) for name in CONTROLS[3:]]
    pieces += [(f"<0x{byte:02X}>", kind.BYTE) for byte in range(256) if byte_fallback]
    merged = [*"_t he _the __ ab _a b_ 12 23 北京".replace("_", "\u2581").split(), "\n\n"]
    pieces += [(piece, kind.NORMAL) for piece in [*merged, *sorted(set("".join(merged)))]]
    for index, (piece, type_) in enumerate(pieces):
        proto.pieces.add(piece=piece, score=-float(index), type=type_)
    (folder / "tokenizer.model").write_bytes(proto.SerializeToString())
    added = {CONTROLS.index(name): {"content": name, "special": True} for name in CONTROLS}
    config = {"bos_token": "<s>", "added_tokens_decoder": added}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def make_checkpoint(folder: Path, *, seed: int = 0, **changes: object) -> Path:
    """A checkpoint directory with 2 layers of width 32, or as `changes` say."""
    folder.mkdir(parents=True, exist_ok=True)
    make_tokenizer(folder)
    values: dict[str, object] = {
        "vocab_size": 400,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "reward_token_id": CONTROLS.index("[UNUSED_TOKEN_130]"),
        "rope_theta": 1e6,
    }
    config = ModelConfig(**{**values, **changes})  # type: ignore[arg-type]
    torch.manual_seed(seed)
    model = RewardModel(config)
    for name, tensor in model.named_parameters():
        if not name.endswith("norm.weight"):
            torch.nn.init.normal_(tensor, std=0.3)
    save_model(model, folder)
    return folder


def make_mild_checkpoint(folder: Path, *, seed: int = 0, **changes: object) -> Path:
    """A checkpoint that foreign engines read, too: vllm's CPU build wants heads of 32 or more.
    Weights keep their input's size, so that rounding stays below 1e-5."""
    from engines.checkpoint import make_readable  # of the benchmarks, which not all who import have

    shape = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4}
    make_checkpoint(folder, seed=seed, **{**shape, **changes})
    path = folder / "model.safetensors"
    torch.manual_seed(seed)
    mild = {
        name: tensor
        if name.endswith("norm.weight")
        else torch.randn_like(tensor) / (1 if "embeddings" in name else tensor.shape[-1] ** 0.5)
        for name, tensor in load_file(path).items()
    }
    save_file(mild, path)
    make_readable(folder)
    return folder


def without_numbers(folder: Path) -> None:
    """Makes all weights NaN: the checkpoint can be loaded, and cannot score."""
    path = folder / "model.safetensors"
    save_file({name: x * torch.nan for name, x in load_file(path).items()}, path)
