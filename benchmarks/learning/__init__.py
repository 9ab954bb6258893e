"""What the learner costs, measured beside what it need not exceed: `toolwise bench learner`, one module for a figure or two."""
