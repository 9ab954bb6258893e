"""What is drawn of runs and evaluations: inline SVG, the pages that hold it, and the pictures of the documents."""
