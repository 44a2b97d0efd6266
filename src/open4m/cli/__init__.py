"""The command line: ``open4m <command>``; ``main.py`` is the entry, each other file a group of commands."""
