"""How processors are stored."""

from services.engine.processors import _stored
from services.engine.spec import ProcessorSpec


def test_options_that_say_nothing_are_not_stored_for_workers_that_do_not_know_them() -> None:
    silent = _stored(ProcessorSpec(command=["true"], inputs={"fees": None}))
    spoken = _stored(ProcessorSpec(command=["true"], network=False, share_children=True))
    assert silent["inputs"] == {"fees": None}
    assert not {"network", "share_children", "sql"} & silent.keys()
    assert (spoken["network"], spoken["share_children"]) == (False, True)
