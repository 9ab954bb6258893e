"""The code that runs inside the jail: it is mounted there, and imports nothing of the host's side."""
