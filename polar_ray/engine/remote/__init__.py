"""The remote engine: a client of sglang, vllm or lmdeploy servers that run elsewhere."""
