"""What the learner costs beside what it cannot cost less than. One module a figure."""
