"""The nodes that pools have, had lately, or may have by their rows: what tasks that ask for something can hope for."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.contract.resources import Capacity, Needs
from services.platform.database import Connection, Database

_NAMED_MAX = 3

# What is declared comes first, then live workers, then the last ones that ended. Earlier releases' workers say nothing.
_NODES = """
    SELECT p.name AS pool, p.largest_node, n.cpus, n.memory, n.gpus, n.disk, n.slots, p.slots AS pool_slots
    FROM pools AS p LEFT JOIN LATERAL (
        (SELECT DISTINCT w.cpus, w.memory, w.gpus, w.disk, w.slots FROM workers AS w
        WHERE w.pool = p.name AND w.state IN ('active', 'draining') AND w.cpus IS NOT NULL)
        UNION
        (SELECT g.cpus, g.memory, g.gpus, g.disk, g.slots FROM workers AS g
        WHERE g.pool = p.name AND g.stopped_at IS NOT NULL AND g.cpus IS NOT NULL ORDER BY g.stopped_at DESC LIMIT 100)
    ) AS n ON true
    WHERE p.name = $1"""


@dataclass(frozen=True, slots=True)
class Nodes:
    """What is known of a pool's nodes: what each has, and its slots."""

    kinds: Sequence[tuple[Capacity, int]]

    def may_hold(self, needs: Needs) -> bool:
        """Whether one does, or nobody knows."""
        return not self.kinds or self.per_node(needs) > 0

    def per_node(self, needs: Needs) -> int:
        """How many such tasks the smallest node holds that holds any; 0 if none does."""
        counts = [has.count(has.part(needs, slots)) for has, slots in self.kinds]
        return min(filter(None, counts), default=0)

    def __str__(self) -> str:
        """The largest of them."""
        kinds = {has for has, _ in self.kinds}
        largest = [one for one in kinds if not any(other != one and other.holds(one) for other in kinds)]
        ordered = sorted(largest, key=lambda has: (has.gpus, has.memory, has.cpus), reverse=True)
        return " or ".join(map(str, ordered[:_NAMED_MAX]))


async def known_nodes(connection: Connection | Database, pool: str) -> Nodes:
    """Those of a pool; none if its workers say nothing, or there never were any."""
    rows = await connection.fetch(_NODES, pool)
    declared = [(Capacity(**row["largest_node"]), row["pool_slots"]) for row in rows[:1] if row["largest_node"]]
    seen = [(Capacity.of(row), row["slots"]) for row in rows if row["cpus"] is not None]
    return Nodes([*declared, *seen])
