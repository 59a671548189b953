"""Mend the bad rows of the file in the demo's folder: ``python -m tasks_examples.import_csv.mend``.

An editor would do as well. The file beside this program stays as it was published.
"""

from __future__ import annotations

import csv
import sys

from tasks_examples.import_csv.tasks import SOURCE

CORRECTIONS: dict[str, dict[str, str]] = {
    "CLD": {"city": "Carlsbad", "state": "CA"},
    "HHH": {"city": "Hilton Head Island", "state": "SC"},
    "MIB": {"city": "Minot", "state": "ND"},
    "MQT": {"city": "Marquette", "state": "MI"},
    "RCA": {"city": "Rapid City", "state": "SD"},
    "RDR": {"city": "Grand Forks", "state": "ND"},
    "SCE": {"city": "State College", "state": "PA"},
    "SKA": {"city": "Spokane", "state": "WA"},
    "ROP": {"city": "Prachin Buri"},
    "ROR": {"city": "Koror"},
    "SPN": {"city": "Tinian"},
    "YAP": {"city": "Colonia"},
    "GRO": {"state": "MP", "longitude": "145.2425353"},
    "GSN": {"state": "MP", "longitude": "145.7293561"},
    "TNI": {"state": "MP", "longitude": "145.6180383"},
    "TT01": {"state": "MP", "longitude": "145.7686111"},
}


def main() -> int:
    if not SOURCE.exists():
        print(f"There is no {SOURCE}: run the demo first.", file=sys.stderr)
        return 1
    with SOURCE.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        columns = list(reader.fieldnames or ())
        rows = [{**row, **CORRECTIONS.get(row["iata"], {})} for row in reader]
    with SOURCE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"Mended {len(CORRECTIONS)} rows of {SOURCE}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
