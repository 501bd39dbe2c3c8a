"""Runs the command `incumbent` as `python -m incumbent`."""

from incumbent.cli.main import main

main(prog_name="incumbent")
