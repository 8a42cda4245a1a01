"""sglang as an engine: its process (`child.py`), and what asks it (`engine.py`)."""
