"""The command line: ``open4m <command>``."""
