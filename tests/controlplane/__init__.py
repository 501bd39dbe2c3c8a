"""The real thing on loopback, for tests, demo and experiments. No containers, no root.

=============  ==================================================================
processes      start a process, wait for it, end it; free ports
natsserver     nats-server with JetStream, alone or three of them
proxy          a TCP proxy that cuts, refuses, delays and swallows
build          etcd, kube-apiserver, helm and the others, built once into a cache
site           etcd and Kubernetes API servers with controllers and scheduler
kube           a small client of the Kubernetes API, and kubectl
nodes          a node agent that plays the kubelet, and switches for its pods
containers     those containers of pods that are programs of this machine
shared         one site for many processes: the workers of a test run
__main__       ``python -m controlplane build | up | env | down``
=============  ==================================================================

Nothing here belongs to any event loop: what one loop started, another may stop. Everything binds
to 127.0.0.1, and ends with the Python process that started it, however that one ends.
"""
