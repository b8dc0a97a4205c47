"""The database server as an operator must see it: what holds back its clean-up, and how its tables grow."""

from prometheus_client.core import Metric

from services.platform.database import Connection
from services.stats.gauges import gauge

_AGES = "SELECT * FROM database_ages()"

# As vacuum and analyze last saw them: to ask for the files' sizes would wait behind whoever locks a table.
_TABLES = """
    WITH tables AS (
        SELECT c.oid, c.reltoastrelid, coalesce(pg_partition_root(c.oid)::oid, c.oid) AS root, c.relpages, c.reltuples
        FROM pg_class AS c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
    )
    SELECT root.relname AS table, current_setting('block_size')::bigint * sum(t.relpages + coalesce(toast.relpages, 0)
            + (SELECT coalesce(sum(i.relpages), 0) FROM pg_index AS x JOIN pg_class AS i ON i.oid = x.indexrelid
               WHERE x.indrelid = t.oid)) AS bytes,
        sum(greatest(t.reltuples, 0)) AS rows
    FROM tables AS t JOIN pg_class AS root ON root.oid = t.root
    LEFT JOIN pg_class AS toast ON toast.oid = t.reltoastrelid
    GROUP BY root.relname ORDER BY root.relname"""


async def read_server(connection: Connection) -> list[Metric]:
    ages = await connection.fetch(_AGES)
    tables = await connection.fetch(_TABLES)
    table = {"table": "table"}
    return [
        gauge("piecework_database_transaction_oldest_seconds", "Age of the oldest open transaction of the server",
              {}, ages, "transaction_seconds"),
        gauge("piecework_database_idle_transaction_oldest_seconds", "The same of those whose client does nothing",
              {}, ages, "idle_transaction_seconds"),
        gauge("piecework_database_xmin_age", "Transactions since the oldest that anybody may still need",
              {}, ages, "xmin_age"),
        gauge("piecework_database_xid_age", "Transactions since the oldest row that is not frozen; 2e9 is the end",
              {}, ages, "xid_age"),
        gauge("piecework_table_bytes", "Size of a table with its indexes, at its last vacuum", table, tables, "bytes"),
        gauge("piecework_table_rows", "Rows of a table, at its last vacuum", table, tables, "rows"),
    ]  # fmt: skip
