"""Many prompts and pictures from one file: lines into jobs, the executors that run them, and what is reported."""
