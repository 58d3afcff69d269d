"""Wiring and supervision: the one place where tasks are started. `server` has the parts and loops."""
