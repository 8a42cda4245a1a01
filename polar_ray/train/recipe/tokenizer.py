"""The small tokenizer: a byte-level BPE trained on synthetic text and Python's own documentation.

Numbers stand apart from spaces and words, in groups of up to three digits, each a single token, so
that equal numbers are equal tokens wherever they stand.
"""

from __future__ import annotations

import ast
import json
import sysconfig
from collections.abc import Iterator
from importlib import import_module
from itertools import islice
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from polar_ray.encoding.template import REWARD_TOKEN, SEPARATOR
from polar_ray.train.recipe.synthetic import training_comparisons, words

CONTROLS = ["<unk>", "<s>", "</s>", SEPARATOR, REWARD_TOKEN]
SPLIT = r"\p{Han}| ?[\p{L}&&[^\p{Han}]]+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\n+|\s+(?!\S)|\s+"
"""No alternative looks at what follows, but for white space: a text can be cut after any token."""


DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
SKIPPED = {"site-packages", "dist-packages", "test", "tests", "lib2to3", "ensurepip"}


def train_tokenizer(folder: Path, *, seed: int, vocab_size: int) -> None:
    """Writes tokenizer.json and tokenizer_config.json; depends on the running Python's version."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(name, special=True, normalized=False) for name in CONTROLS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        max_token_length=24,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(seed), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "</s>",
        "add_bos_token": True,
        "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": {
            str(index): {"content": name, "special": True} for index, name in enumerate(CONTROLS)
        },
    }
    text = json.dumps(config, indent=2)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")


def pieces(folder: Path) -> list[str]:
    """The texts of a tokenizer's vocabulary, common ones first; bytes that are no text left out."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = (tokenizer.decode([index]) for index in range(tokenizer.get_vocab_size()))
    return [text for text in texts if text and "\ufffd" not in text]


def _corpus(seed: int) -> Iterator[str]:
    # Often enough that every number of up to three digits becomes a token.
    for _ in range(30):
        for size in (1, 2, 3):
            yield " ".join(f"{number:0{size}}" for number in range(10**size))
    for comparison in islice(training_comparisons(seed, words.COMMON), 2500):
        yield comparison.prompt
        yield from comparison.outputs
    for _ in range(20):
        yield from (" ".join(value) for value in _word_lists())
    yield from _documentation()


def _word_lists() -> Iterator[list[str]]:
    for _, entries in sorted(words.LISTS.items()):
        yield list(entries)


def _documentation() -> Iterator[str]:
    """Python's help topics and the docstrings of its standard library, in order of their files."""
    yield from import_module("pydoc_data.topics").topics.values()
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        if SKIPPED.isdisjoint(path.relative_to(root).parts):
            tree = ast.parse(path.read_bytes())
            documented = (node for node in ast.walk(tree) if isinstance(node, DOCUMENTED))
            yield from filter(None, map(ast.get_docstring, documented))
