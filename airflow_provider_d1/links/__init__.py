"""Links from a task to Cloudflare's dashboard."""
