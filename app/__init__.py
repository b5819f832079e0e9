"""What people run: command line, pipeline, run folders, export."""
