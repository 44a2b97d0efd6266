"""What people look at: the demo page, and the front-end of the service (``static/``, docs/studio.md)."""
