"""One episode as it is shown: its record, the text of its tokens, what the learner made of it."""
