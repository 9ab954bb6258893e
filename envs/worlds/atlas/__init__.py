"""Atlas: questions about real flags, photographs and facts, built offline from installed packages by `toolwise atlas`."""
