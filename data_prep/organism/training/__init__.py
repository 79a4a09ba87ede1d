"""Training the model organisms."""
