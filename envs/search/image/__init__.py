"""Image searches, which find what an image shows."""
