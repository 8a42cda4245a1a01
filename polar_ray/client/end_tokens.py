"""The end of a policy's output: trainers that decode a rollout with its special tokens send the
token that ended it, which is no part of what was said and would be scored as text."""

from __future__ import annotations

from collections.abc import Sequence

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


def without_end(output: str, tokens: Sequence[str] = END_TOKENS) -> str:
    """An output without the tokens that end it, and what follows them: as a tokenizer decodes it
    that skips special tokens."""
    kept = end = len(output)
    while True:
        while end and output[end - 1].isspace():
            end -= 1
        token = next((t for t in tokens if t and output.endswith(t, 0, end)), None)
        if token is None:
            return output[:kept]
        kept = end = end - len(token)
