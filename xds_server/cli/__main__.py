"""`python -m xds_server.cli`: the same as `crossfade`."""

from xds_server.cli import main

main()
