"""Shipped data: the embedded prior. Located with importlib.resources, never by the working directory."""
