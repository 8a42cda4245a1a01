"""Text to token ids. Nothing here knows torch, ray or engines."""

from polar_ray.encoding.encoder import Encoded, Encoder
from polar_ray.encoding.tokenizer import Tokenizer, has_tokenizer, load_tokenizer
from polar_ray.encoding.truncate import Limits, limits

__all__ = ["Encoded", "Encoder", "Limits", "Tokenizer", "has_tokenizer", "limits", "load_tokenizer"]
