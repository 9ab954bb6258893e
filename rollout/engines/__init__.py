"""Who samples: vLLM in this process, verl's servers, or an OpenAI-compatible endpoint. An engine knows no episode."""
