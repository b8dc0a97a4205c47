"""A database user for each service that logs in by IAM: `python -m services.engine.logins`, as the owner of the tables.

For RDS, where the role `rds_iam` has its members log in by a token of IAM in place of a password:
https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/UsingWithRDS.IAMDBAuth.DBAccounts.html
It may be repeated.
"""

import asyncio

import asyncpg

from services.engine.roles import SERVICES, set_up_roles
from services.platform.database import connect_alone
from services.platform.database_access import NotLetIn, Place
from services.platform.settings import Settings, read_settings

_IAM = "rds_iam"


async def make_logins(place: Place) -> str | None:
    """Make the users that are missing, as members of their roles; returns what is wrong, if this can't be done.

    Raises NotLetIn, and what asyncpg raises.
    """
    connection = await connect_alone(place)
    try:
        found = {row["rolname"] for row in await connection.fetch("SELECT rolname FROM pg_roles")}
        if _IAM not in found:
            return f"the server has no role {_IAM}: it is not RDS, or IAM authentication is off; give users passwords"
        if lacking := [service for service in SERVICES if f"piecework_{service}" not in found]:
            return f"there is no role piecework_{lacking[0]}: run services.engine.migrate first"
        for service in SERVICES:
            login = f"piecework_{service}_login"
            if login not in found:
                await connection.execute(f"CREATE ROLE {login} LOGIN")
            await connection.execute(f"GRANT piecework_{service}, {_IAM} TO {login}")
        return await set_up_roles(connection)
    finally:
        await connection.close()


if __name__ == "__main__":
    try:
        if wrong := asyncio.run(make_logins(read_settings(Settings))):
            raise SystemExit(wrong)
    except (NotLetIn, OSError, asyncpg.PostgresError) as error:
        raise SystemExit(str(error)) from None
