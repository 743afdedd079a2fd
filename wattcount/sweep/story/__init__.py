"""What happened in a study, and how it stands: for people, scripts and MLflow."""
