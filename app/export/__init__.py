"""Mesh to files: unwrap, bake, GLB, and the pictures made from the re-read file."""
