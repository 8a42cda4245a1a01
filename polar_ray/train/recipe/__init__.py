"""The built-in model's recipe: synthetic data, tokenizer, first weights, and the one command.

Nobody needs it to train on data of their own, so it is in the repository and not in the wheel;
nothing outside this folder imports it but tests and benchmarks.
"""
