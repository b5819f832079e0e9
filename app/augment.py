"""The name that the training kit beside this project knows app/training/augment.py by; goes with the kit."""

from app.training.augment import *  # noqa: F403
