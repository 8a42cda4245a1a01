"""Kernels run on the device where there is one, and in Triton's interpreter elsewhere."""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    # Before a kernel is defined, which is when Triton asks.
    os.environ["TRITON_INTERPRET"] = "1"
