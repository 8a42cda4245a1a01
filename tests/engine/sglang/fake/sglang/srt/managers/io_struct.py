"""Requests, by their names in sglang."""

from dataclasses import dataclass


@dataclass
class EmbeddingReqInput:
    input_ids: list[int]


@dataclass
class UpdateWeightFromDiskReqInput:
    model_path: str
