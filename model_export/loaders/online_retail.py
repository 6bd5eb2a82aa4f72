"""UCI Online Retail (Chen 2015, doi:10.24432/C5BW33): lines of invoices, as Parquet, CSV or TSV.

A line is a purchase, its value the quantity. Lines of the same customer, article and moment are one event. Left out, and
counted: lines without a customer (CustomerID missing or 0), returns (quantity not above 0) and fees (codes that do not begin
with five digits: POST, M, DOT, …).
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from statistics import median

from model_export.interactions import InteractionsBuilder
from model_export.loaders.cells import id_of, is_empty, number_of, time_ms_of
from model_export.loaders.tables import kind_of, read_table
from streamer.core.protocol import ItemRecord
from streamer.errors import DataError

_COLUMNS = {"InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "CustomerID"}
_ARTICLE = re.compile(r"\d{5}")


def recognises(path: Path) -> bool:
    if path.is_dir():
        files = [file for file in path.iterdir() if kind_of(file) in (".parquet", ".csv")]
        return len(files) == 1 and recognises(files[0])
    if kind_of(path) not in (".parquet", ".csv", ".tsv") or not path.is_file():
        return False
    try:
        return set(read_table(path)[0]) >= _COLUMNS
    except DataError:
        return False


def read(path: Path, builder: InteractionsBuilder) -> None:
    file = path if path.is_file() else next(f for f in path.iterdir() if kind_of(f) in (".parquet", ".csv"))
    names: dict[str, Counter[str]] = {}
    prices: dict[str, list[float]] = {}
    lines: dict[tuple[str, str, int], float] = {}
    for number, row in enumerate(read_table(file)[1], 1):
        where = f"{file.name}, row {number}"
        article, quantity = str(row["StockCode"] or ""), number_of(row["Quantity"], where, "Quantity")
        customer = "0" if is_empty(row["CustomerID"]) else id_of(row["CustomerID"], where, "CustomerID")
        customer = customer.removesuffix(".0")  # a CSV of floats
        if customer == "0":
            builder.leave_out("lines without a customer")
        elif quantity <= 0:
            builder.leave_out("returns")
        elif not _ARTICLE.match(article):
            builder.leave_out("lines of fees")
        else:
            key = customer, article, time_ms_of(row["InvoiceDate"], where, "InvoiceDate")
            builder.leave_out("further lines of the same article in an invoice", int(key in lines))
            lines[key] = lines.get(key, 0.0) + quantity
            if not is_empty(row["Description"]):
                names.setdefault(article, Counter())[str(row["Description"]).strip()] += 1
            if not is_empty(row.get("UnitPrice")):
                prices.setdefault(article, []).append(float(row["UnitPrice"]))
    for article in dict.fromkeys(article for _, article, _ in lines):
        title = names[article].most_common(1)[0][0] if article in names else ""
        price = round(median(prices[article]), 2) if article in prices else None
        builder.add_item(ItemRecord(article, title, price=price))
    for (customer, article, time_ms), quantity in lines.items():
        builder.add(customer, article, "purchase", time_ms, quantity)
