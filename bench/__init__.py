"""Measurements that anybody can repeat: `make bench`. They print figures and judge nothing."""
