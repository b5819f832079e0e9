"""`polymode export` and `polymode inspect`: runs and anybody's mesh files, converted and measured."""
