"""One episode from reset to outcome. It knows no Ray and no engine."""
