"""The replicas of one site: who they are (`site`), how one asks another (`confirmation`). Pure."""
