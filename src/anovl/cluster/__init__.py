"""Runs on a Ray cluster: sources and outputs at any address, decoding on CPUs, a pool of models, shards that survive a kill."""
