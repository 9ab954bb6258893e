"""What environments stand on: event loops, threads, files, endpoints, Gymnasium spaces. It knows no task."""
