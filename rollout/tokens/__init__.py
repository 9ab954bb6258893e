"""What a policy sees: chat templates, token records, images."""
