"""Delivers: everything of Crossfade that touches the world (xDS, Envoy, telemetry, stores, API, command line)."""
