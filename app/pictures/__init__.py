"""What a user hands in: reading, cutting out, posing."""
