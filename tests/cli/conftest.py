from __future__ import annotations

import sys
from pathlib import Path

# Whatever pytest's import mode, the tests here find small_studies and analysis/study_files.
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "analysis")]
