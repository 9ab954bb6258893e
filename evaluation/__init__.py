"""What trajectories say about a policy: accuracy, tool use, ablations, comparisons."""
