"""The web page (`polymode serve`): a thin client of the jobs."""
