"""Infrastructure of environments: event loops, threads, files, endpoints, Gymnasium spaces. It knows nothing about tasks."""
