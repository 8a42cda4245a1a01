"""Text to token ids. Nothing here knows torch, ray or engines."""

from polar_ray.encoding.encoder import Encoded, Encoder
from polar_ray.encoding.tokenizer import Tokenizer, load_tokenizer
from polar_ray.encoding.truncate import Limits, limits

__all__ = ["Encoded", "Encoder", "Limits", "Tokenizer", "limits", "load_tokenizer"]
