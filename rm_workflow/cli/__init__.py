"""The `rmw` command: thin, one file a group of verbs."""
