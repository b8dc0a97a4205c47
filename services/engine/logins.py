"""Make a database user for each service: `python -m services.engine.logins`, after the migration.

Each is a member of its service's role (services/engine/roles.py) and gets no password. On RDS it logs in with tokens of
IAM (https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/UsingWithRDS.IAMDBAuth.DBAccounts.html); elsewhere an
administrator gives it a password. The command may be repeated, and leaves passwords as they are.
"""

import asyncio

import asyncpg

from services.engine.roles import SERVICES, set_up_sessions
from services.platform.database import connect_alone
from services.platform.settings import Settings, read_settings

LOGINS = {service: f"piecework_{service}_login" for service in SERVICES}

_EXISTS = "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)"
_IAM_ROLE = "rds_iam"  # which RDS has; its members log in with a token and no password


async def make_logins(connection: asyncpg.Connection) -> None:
    """The users exist and may do what their roles may; on RDS, by tokens."""
    for service, login in LOGINS.items():
        if not await connection.fetchval(_EXISTS, login):
            await connection.execute(f"CREATE ROLE {login} LOGIN")
        await connection.execute(f"GRANT piecework_{service} TO {login}")


async def _let_in_by_tokens(connection: asyncpg.Connection) -> bool:
    """Whether this is RDS."""
    if not await connection.fetchval(_EXISTS, _IAM_ROLE):
        return False
    await connection.execute(f"GRANT {_IAM_ROLE} TO {', '.join(LOGINS.values())}")
    return True


async def main(settings: Settings) -> None:
    """The command. Raises the server's errors if this user may not make others, and what connecting raises."""
    connection = await connect_alone(settings)
    try:
        await make_logins(connection)
        advice = await set_up_sessions(connection)
        way = "by tokens of IAM" if await _let_in_by_tokens(connection) else "with the passwords that they are given"
        print(f"the services log in {way}: {', '.join(LOGINS.values())}", *filter(None, [advice]), sep="\n", flush=True)
    finally:
        await connection.close()


if __name__ == "__main__":
    try:
        asyncio.run(main(read_settings(Settings)))
    except (OSError, asyncpg.InvalidAuthorizationSpecificationError) as error:
        raise SystemExit(str(error)) from None
    except (asyncpg.InsufficientPrivilegeError, asyncpg.UndefinedObjectError) as error:
        raise SystemExit(f"{error}; run this as the user that migrates, after the migration") from None
