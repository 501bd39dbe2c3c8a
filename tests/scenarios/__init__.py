"""Long tests of several operators together, on real control planes: `make verify` runs them."""
