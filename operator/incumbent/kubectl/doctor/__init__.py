"""`kubectl incumbent doctor`: what it asks the cluster and NATS, and what it finds."""
