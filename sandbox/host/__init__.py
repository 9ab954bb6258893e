"""What starts and bounds the outer jail: nsjail, its process, its control groups."""
