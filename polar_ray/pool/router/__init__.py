"""The router's process: admits calls, queues their rows, gives them to replicas, merges what they
answer."""
