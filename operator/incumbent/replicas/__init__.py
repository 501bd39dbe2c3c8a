"""The replicas of a site: `site` recognises them, `confirmation` has their questions. Pure."""
