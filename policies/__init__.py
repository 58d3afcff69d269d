"""Decides: policy documents, the rollout engine, gates and statistics. Pure: no I/O, no clock, no asyncio."""
