"""`toolwise synthesize`: demonstrations that teachers make in the real environment, verified, balanced, and counted."""
