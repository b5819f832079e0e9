"""The name that the training kit beside this project knows app/training/photograph.py by; goes with the kit."""

from app.training.photograph import *  # noqa: F403
