"""Rows one by one: what `benchmarks/rows.py` scores, how it calls the pool, and what it prints."""
