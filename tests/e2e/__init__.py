"""The last word: Incumbent in its own pods, on nodes with real kubelets, containers and kube-proxy.

`make e2e` installs what it needs, and goes through two scenarios. Everything runs in namespaces of
its own for network, mounts and processes: the machine's network is not touched, and all of it
is gone when `make e2e` is.
"""
