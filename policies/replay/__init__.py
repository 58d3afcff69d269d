"""Policies replayed on recorded or simulated evidence (`crossfade test`)."""
