"""What a run needs of GPUs and hosts, worked out on paper before it starts."""
