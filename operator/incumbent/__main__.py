"""`python -m incumbent` is the command `incumbent`."""

from incumbent.cli import main

main(prog_name="incumbent")
