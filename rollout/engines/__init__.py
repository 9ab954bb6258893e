"""Who samples: vLLM in this process, or an OpenAI-compatible endpoint. An engine knows no episode and no Ray."""
