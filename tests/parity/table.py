"""The rows of the report: what was compared, the largest error found, the bound it must hold."""
import time
import traceback

NAME_WIDTH = 74
LINE_WIDTH, CELL_WIDTH = 26, 13


class Table:
    """Collects rows and prints each as it is known. A row that raises is a failed row, not the end of the run."""

    def __init__(self, only=None):
        self.only, self.passed, self.failed, self.started = only, 0, 0, time.monotonic()

    def heading(self, text):
        print(f"\n{text:<{NAME_WIDTH}} {'error':>9} {'bound':>9}", flush=True)

    def row(self, name, error, bound, note=""):
        good = error <= bound  # false for NaN as well
        self.passed, self.failed = self.passed + good, self.failed + (not good)
        print(f"{name:<{NAME_WIDTH}} {error:>9.2g} {bound:>9.2g}  {'pass' if good else 'FAIL'}{'  ' + note if note else ''}", flush=True)

    def measure(self, name, bound, function, *arguments):
        """One row: function returns the largest error, or (error, note)."""
        if self.only and self.only not in name:
            return
        try:
            result = function(*arguments)
        except Exception as problem:
            traceback.print_exc()
            result = float("inf"), f"{type(problem).__name__}: {problem}"
        error, note = result if isinstance(result, tuple) else (result, "")
        self.row(name, error, bound, note)

    def columns_heading(self, text, bounds):
        print("\n" + f"{text:<{LINE_WIDTH}}" + "".join(f"{title:>{CELL_WIDTH}}" for title in bounds))
        print(f"{'bound':<{LINE_WIDTH}}" + "".join(f"{f'{bound:.0e}     ':>{CELL_WIDTH}}" for bound in bounds.values()), flush=True)

    def line(self, name, columns, make):
        """One line of cells: `columns` has title: (bound, function of what `make` makes). Notes of failed cells follow."""
        if self.only and self.only not in name:
            return
        print(f"{name:<{LINE_WIDTH}}", end="", flush=True)
        made, notes = None, {}
        for title, (bound, function) in columns.items():
            try:
                made = made or make()
                result = function(made)
            except Exception as problem:
                result = float("inf"), f"{type(problem).__name__}: {problem}"
            error, note = result if isinstance(result, tuple) else (result, "")
            good = error <= bound
            self.passed, self.failed = self.passed + good, self.failed + (not good)
            if note and not good:
                notes.setdefault(note, []).append(title)
            print(f"{f'{error:.1e} ' + ('pass' if good else 'FAIL'):>{CELL_WIDTH}}", end="", flush=True)
        print("".join(f"\n    {', '.join(titles)}: {note}" for note, titles in notes.items()), flush=True)

    def end(self):
        print(f"\n{time.monotonic() - self.started:.0f} s")
        print(f"parity: {self.passed} passed, {self.failed} failed")
        return 1 if self.failed or not self.passed else 0
