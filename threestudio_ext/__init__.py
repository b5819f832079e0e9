"""The bridge to threestudio. Empty until the issue that builds it."""
