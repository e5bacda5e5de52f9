"""Which tenant and database a client works in, when the server knows what its user may see."""

from __future__ import annotations

from chroma_gpu.api.types import UserIdentity
from chroma_gpu.config import DEFAULT_DATABASE, DEFAULT_TENANT
from chroma_gpu.errors import ChromaAuthError


def maybe_set_tenant_and_database(
    user_identity: UserIdentity,
    overwrite_singleton_tenant_database_access_from_auth: bool,
    user_provided_tenant: str | None = None,
    user_provided_database: str | None = None,
) -> tuple[str | None, str | None]:
    """The tenant and the database to use: what the caller named, or the only one that the user may see.

    Only with ``overwrite_singleton_...`` does what the user may see count; it then stands in for None and for the default names.
    Raises ChromaAuthError if the caller named another one than the only one.
    """
    tenant = database = None
    if overwrite_singleton_tenant_database_access_from_auth:
        tenant = user_identity.tenant if user_identity.tenant != "*" else None
        seen = set(user_identity.databases or ())
        database = seen.pop() if len(seen) == 1 and "*" not in seen else None
    return (
        _settled("Tenant", user_provided_tenant, tenant, DEFAULT_TENANT),
        _settled("Database", user_provided_database, database, DEFAULT_DATABASE),
    )


def _settled(kind: str, named: str | None, only: str | None, default: str) -> str | None:
    if not only:
        return named
    if named and named not in (default, only):
        raise ChromaAuthError(
            f"{kind} {named} does not match {only} from the server. Are you sure the {kind.lower()} is correct?"
        )
    return only
