"""The `blox` command."""
