"""Checks that a part of an XML document is cut between records, before its processor sees it.

The first part begins correctly: at the first record, found by a walk from the document's start. If a part begins
correctly, and its walk ends outside records, comments and the like, and within the same elements as at its start, the
next part begins correctly too. So if all parts pass, all cuts are right. The first wrong cut ends a part that fails.
"""

from pathlib import Path

from services.contract.task_error import TaskError
from services.inputs.places import Source
from services.inputs.xml.markup import Markup, MarkupError

_READ_BYTES = 1 << 20


def check_cuts(input: Path, *, record_tag: str, header_bytes: int, footer_bytes: int | None, source: Source) -> None:
    """The file holds a part of `source` between a header and a footer; without a footer, it is the last part.

    Raises TaskError: records_torn, or input_invalid if it is not the part's end that is wrong.
    """
    start = source["byte"] or 0
    end = input.stat().st_size - (footer_bytes or 0)
    markup = Markup(record_tag, start)
    try:
        with input.open("rb") as file:
            _walk(markup, file.read(header_bytes))
            around = markup.around
            while piece := file.read(min(_READ_BYTES, end - file.tell())):
                _walk(markup, piece)
        if footer_bytes is None:
            markup.finish()
    except MarkupError as error:
        raise TaskError(
            "input_invalid",
            f"{source['uri']} can't be read as XML: {error} (if it is well-formed there, a part before was cut wrong: "
            "set `scan: true` in the job's input)",
            retryable=False,
        ) from None
    if footer_bytes is None:
        return
    if markup.open is not None:
        raise _torn(source, f"{markup.open.what} at byte {markup.open.position} is cut at byte {start + end}")
    if markup.around != around or markup.ended:
        now, before = (tags.decode(errors="backslashreplace") for tags in (markup.around, around))
        raise _torn(source, f"the elements around the cut at byte {start + end} are {now!r}, not {before!r}")


def _walk(markup: Markup, data: bytes) -> None:
    for _ in markup.feed(data):
        pass


def _torn(source: Source, what: str) -> TaskError:
    return TaskError(
        "records_torn",
        f"{source['uri']}: {what}: if records hold elements of their own name, if comments or CDATA hold their start "
        "tag, or if the elements around them change, set `scan: true` in the job's input; otherwise an end tag is "
        "missing there",
        retryable=False,
    )
