"""verl's servers as an engine: vLLM in processes of its own, which all workers share, with verl's router and weight updates."""
