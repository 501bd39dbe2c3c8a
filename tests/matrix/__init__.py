"""Runs the tests with every version that the project claims to support: `make matrix`.

plan           which versions there are, and which tests each of them runs
environments   what a version needs: a control plane, a nats-server, a Python with its packages
results        what came of it, in `results.json`, and the table of it in the docs
"""
