"""`python -m incumbent` is the command `incumbent`."""

from incumbent.cli.main import main

main(prog_name="incumbent")
