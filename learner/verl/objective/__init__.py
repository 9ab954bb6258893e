"""Advantages and losses, as verl's registries have them."""
