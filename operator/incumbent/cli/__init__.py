"""The command `incumbent`: a module for each command or family of commands, and `flags`."""
