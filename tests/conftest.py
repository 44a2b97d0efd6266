"""Tests find their helpers, the modules beside this file, because it is here: pytest puts its folder on the path."""
