"""Incumbent keeps exactly one pod of a set in office, with the lock in NATS JetStream."""
