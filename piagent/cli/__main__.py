"""`python -m piagent.cli`: the same as the `piagent` script."""

from __future__ import annotations

import sys

from piagent.cli import main

sys.exit(main())
