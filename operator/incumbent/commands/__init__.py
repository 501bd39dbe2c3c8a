"""Commands on any bucket, for people who do not run Kubernetes."""
