"""The name that the training kit beside this project knows app/training/data.py by; goes with the kit."""

from app.training.data import *  # noqa: F403
