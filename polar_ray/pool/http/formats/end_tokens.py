"""The end of a policy's output: trainers that decode a rollout with its special tokens send the
token that ended it, which is no part of what was said and would be scored as text."""

from __future__ import annotations

END_TOKENS = (
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<|end|>",
    "<|return|>",
    "<end_of_turn>",
    "<eos>",
    "</s>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
)
"""Of Qwen and InternLM, Llama 3, Phi, gpt-oss, Gemma, Llama 2 and Mistral, DeepSeek."""


def without_end(output: str) -> str:
    """An output without the end tokens that it ends with."""
    end = len(output)
    while token := next((t for t in END_TOKENS if output.endswith(t, 0, end)), None):
        end -= len(token)
    return output[:end]
