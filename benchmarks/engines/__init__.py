"""The parts of `benchmarks/engine.py`: workloads, competitors and how they are measured."""
