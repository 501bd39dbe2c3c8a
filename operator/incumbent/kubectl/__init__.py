"""`kubectl incumbent`: the plugin of kubectl, a module for each command or family of commands."""
