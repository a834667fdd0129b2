"""Create files that D1 can import from SQL scripts, backups and staged rows."""
