"""How good a result is: the evaluator (a small network independent of the prior), colour in CIELAB, and the tables."""
