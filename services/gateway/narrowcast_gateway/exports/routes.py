"""``/v1/exports``."""

from typing import Annotated

from fastapi import APIRouter, Header, HTTPException, Response
from fastapi.responses import StreamingResponse

from narrowcast.jobs.once import Once
from narrowcast_gateway.deps import AfterQuery, IdempotencyKey, KeyedRoute, LimitQuery, ServicesDep, TenantDep
from narrowcast_gateway.exports.ranges import ByteRange, RangeNotSatisfiable, requested_range
from narrowcast_gateway.exports.schemas import CreateExport, Export
from narrowcast_gateway.exports.service import StoredFile
from narrowcast_gateway.schemas import Deleted, Page

router = APIRouter(prefix="/exports", tags=["exports"], route_class=KeyedRoute)
_BINARY = "application/octet-stream"


@router.post("", status_code=202)
def create_export(
    request: CreateExport, services: ServicesDep, tenant: TenantDep, key: IdempotencyKey = None
) -> Export:
    """Queue an export of an adapter: merged with its base, as GGUF for llama.cpp and Ollama, or alone."""
    once = Once.of(key, request.model_dump_json()) if key else None
    return Export.of(services.exports.create(tenant, request, once))


@router.get("")
def list_exports(
    services: ServicesDep, tenant: TenantDep, after: AfterQuery = None, limit: LimitQuery = 20
) -> Page[Export]:
    """List the tenant's exports, newest first."""
    jobs, more = services.exports.page(tenant, after, limit)
    return Page(data=[Export.of(job) for job in jobs], has_more=more)


@router.get("/{export_id}")
def get_export(export_id: str, services: ServicesDep, tenant: TenantDep) -> Export:
    """Return one export, with its files once it has succeeded."""
    return Export.of(services.exports.get(tenant, export_id))


@router.post("/{export_id}/cancel")
def cancel_export(export_id: str, services: ServicesDep, tenant: TenantDep) -> Export:
    """Stop an export; nothing of it is kept."""
    return Export.of(services.exports.cancel(tenant, export_id))


@router.delete("/{export_id}")
def delete_export(export_id: str, services: ServicesDep, tenant: TenantDep) -> Deleted:
    """Delete an ended export and its files."""
    services.exports.delete(tenant, export_id)
    return Deleted(id=export_id, object="export")


@router.head("/{export_id}/files/{name}", include_in_schema=False)
def head_export_file(export_id: str, name: str, services: ServicesDep, tenant: TenantDep) -> Response:
    """Return what a download says of the file before its bytes."""
    file = services.exports.file(tenant, export_id, name)
    # A range is asked for with GET alone (RFC 9110, section 14.2).
    headers = _headers(file, requested_range(None, file.entry.size), name)
    return Response(headers=headers, media_type=_BINARY)


@router.get("/{export_id}/files/{name}", response_class=StreamingResponse)
def get_export_file(
    export_id: str,
    name: str,
    services: ServicesDep,
    tenant: TenantDep,
    range_: Annotated[
        str | None,
        Header(alias="Range", description="`bytes=…`, one range: continues a download that broke off."),
    ] = None,
    if_range: Annotated[
        str | None, Header(description="An ETag; if it is not the file's, all of it is sent.")
    ] = None,
) -> Response:
    """Download a file; its ETag is its SHA-256."""
    file = services.exports.file(tenant, export_id, name)
    wanted = range_ if if_range in (None, _etag(file)) else None
    try:
        part = requested_range(wanted, file.entry.size)
    except RangeNotSatisfiable:
        size = file.entry.size
        raise HTTPException(
            416, f"the range begins after the file's {size} bytes", {"Content-Range": f"bytes */{size}"}
        ) from None
    content = file.read(part.start, part.length) if part.length else iter(())
    return StreamingResponse(content, 206 if part.partial else 200, _headers(file, part, name), _BINARY)


def _headers(file: StoredFile, part: ByteRange, name: str) -> dict[str, str]:
    return part.headers() | {"ETag": _etag(file), "Content-Disposition": f'attachment; filename="{name}"'}


def _etag(file: StoredFile) -> str:
    return f'"{file.entry.sha256}"'
