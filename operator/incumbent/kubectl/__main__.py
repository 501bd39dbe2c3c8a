"""`python -m incumbent.kubectl` is `kubectl incumbent`."""

from incumbent.kubectl.cli import run

run()
