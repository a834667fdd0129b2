"""Where staged files are stored: a folder, S3, or any object store that fsspec reaches."""
