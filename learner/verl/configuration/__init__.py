"""verl's own settings, checked by name and passed on."""
