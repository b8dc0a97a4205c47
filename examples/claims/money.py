"""Money and dates as X12 writes them: amounts are whole cents here, dates are ISO text."""

import re
from datetime import date
from functools import lru_cache

_AMOUNT = re.compile(r"0*(\d{0,8})(?:\.(\d{0,2})0*)?", re.ASCII)  # under HIPAA at most 10 digits, with the cents
_DATE = re.compile(r"\d{8}", re.ASCII)


def cents(text: str) -> int | None:
    """`40`, `40.5`, `40.50` or `.5` in cents; None if it is not an amount below 100 million."""
    found = _AMOUNT.fullmatch(text)
    if not found or text in ("", "."):
        return None
    return int(found[1] or 0) * 100 + int((found[2] or "").ljust(2, "0"))


def dollars(amount: int) -> str:
    """`40.50`, for tables."""
    return f"{amount // 100}.{amount % 100:02d}"


def x12_amount(amount: int) -> str:
    """`40.5`: X12 leaves out zeros that say nothing."""
    return dollars(amount).rstrip("0").rstrip(".")


@lru_cache(maxsize=4096)
def iso_date(text: str) -> str:
    """`2026-01-31` of `20260131`; empty if it is not a date. (int() alone would take blanks, signs and underscores.)"""
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:])).isoformat() if _DATE.fullmatch(text) else ""
    except ValueError:
        return ""


def x12_date(text: str) -> str:
    return text.replace("-", "")
