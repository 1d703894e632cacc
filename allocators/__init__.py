"""The backends that come with harness; each is found by its entry point alone."""
