import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # solvable.py and stand_ins.py, for tests and for the command alike
