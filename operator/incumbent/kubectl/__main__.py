"""`python -m incumbent.kubectl` is `kubectl incumbent`."""

from incumbent.kubectl.main import run

run()
