"""``python -m open4m`` is ``open4m``."""

import sys

from open4m.cli.main import main

sys.exit(main())
