"""What people are told: conditions and events (`conditions`, pure), who writes them (`writer`)."""
