"""A checkpoint as sglang wants it: links to the weights, and a config that needs none of its code.

sglang asks transformers for the config, which knows InternLM2 by remote code only. Checkpoints may
have that code or not, and we run none of theirs: the view brings a config class of ours.
"""

from __future__ import annotations

import json
from pathlib import Path

from polar_ray.model.config import load_config, to_json
from polar_ray.model.weights import INDEX, weight_files

MODULE = "configuration_internlm2"

CONFIG_CLASS = '''\
"""The config of InternLM2 as plain attributes, for transformers."""

from transformers import PretrainedConfig


class InternLM2Config(PretrainedConfig):
    """Attributes are the keys of config.json."""

    model_type = "internlm2"

    def __init__(self, rope_theta=10000, rope_scaling=None, **others):
        # Given on, these two would be merged into one that sglang does not read.
        self.rope_theta = rope_theta
        self.rope_scaling = rope_scaling
        super().__init__(**others)
'''


def make_view(model_dir: Path, view: Path) -> Path:
    """Fills a new folder `view` with what sglang is to see of a checkpoint, and returns it."""
    view.mkdir(parents=True)
    for path in weight_files(model_dir):
        (view / path.name).symlink_to(path.resolve())
    if (index := model_dir / INDEX).is_file():
        (view / INDEX).symlink_to(index.resolve())
    config = {
        **to_json(load_config(model_dir)),
        "pad_token_id": None,  # sglang asks for it and has no use for it
        "auto_map": {"AutoConfig": f"{MODULE}.InternLM2Config"},
    }
    (view / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (view / f"{MODULE}.py").write_text(CONFIG_CLASS, encoding="utf-8")
    return view
