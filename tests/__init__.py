import app  # noqa: F401 - sets the OpenMP policy that runs have, before torch is imported
