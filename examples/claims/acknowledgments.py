"""How trading partners say what is wrong: codes of a TA1 (an interchange) and of a 999 (all that is in one).

The wordings are those of X12's code lists I18 (TA105), 716 (AK905), 618 (IK502), 620 (IK304) and 621 (IK403).
"""

_WORDINGS = {
    "TA105": {
        "001": "The Interchange Control Number in the Header and Trailer Do Not Match",
        "006": "Invalid Interchange Sender ID",
        "008": "Invalid Interchange Receiver ID",
        "014": "Invalid Interchange Date Value",
        "015": "Invalid Interchange Time Value",
        "017": "Invalid Interchange Version ID Value",
        "018": "Invalid Interchange Control Number Value",
        "020": "Invalid Test Indicator Value",
        "021": "Invalid Number of Included Groups Value",
        "022": "Invalid Control Structure",
        "023": "Improper (Premature) End-of-File (Transmission)",
        "024": "Invalid Interchange Content (e.g., Invalid GS Segment)",
        "027": "Invalid Component Element Separator",
    },
    "AK905": {
        "3": "Functional Group Trailer Missing",
        "4": "Group Control Number in the Functional Group Header and Trailer Do Not Agree",
        "5": "Number of Included Transaction Sets Does Not Match Actual Count",
    },
    "IK502": {
        "1": "Transaction Set Not Supported",
        "2": "Transaction Set Trailer Missing",
        "3": "Transaction Set Control Number in Header and Trailer Do Not Match",
        "4": "Number of Included Segments Does Not Match Actual Count",
    },
    "IK304": {
        "1": "Unrecognized segment ID",
        "2": "Unexpected segment",
        "3": "Required Segment Missing",
    },
    "IK403": {
        "1": "Required Data Element Missing",
        "5": "Data Element Too Long",
        "6": "Invalid Character In Data Element",
        "7": "Invalid Code Value",
        "8": "Invalid Date",
        "I6": "Code Value Not Used in Implementation",
    },
}


def fault(text: str, element: str, code: str) -> str:
    """`text [IK403 8: Invalid Date]`: what is wrong, and the code for it in an element of the acknowledgment."""
    return f"{text} [{element} {code}: {_WORDINGS[element][code]}]"


def shown(value: str) -> str:
    """A value as a reason repeats it: in quotes, and not without limit."""
    return repr(value if len(value) <= 40 else f"{value[:40]}…")
