"""The figures of `toolwise bench learner`, one module each."""
