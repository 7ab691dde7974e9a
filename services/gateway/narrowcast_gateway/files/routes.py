"""``/v1/files`` in OpenAI's shape."""

from typing import Annotated, Final, Literal

from fastapi import APIRouter, File, Form, Query, Response, UploadFile
from pydantic import BaseModel

from narrowcast.datasets import DatasetManifest
from narrowcast.errors import Conflict, NotFound
from narrowcast.paging import page_of
from narrowcast_gateway.deps import AfterQuery, KeyedRoute, ServicesDep, TenantDep
from narrowcast_gateway.schemas import Deleted, Page
from narrowcast_gateway.training.results import ResultFile

router = APIRouter(prefix="/files", tags=["files"], route_class=KeyedRoute)
Purpose = Literal["fine-tune", "fine-tune-results"]
_MOST_FILES: Final = 10_000
"""OpenAI's."""


class FileObject(BaseModel):
    """OpenAI's file."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    """Made from the id: the name it was uploaded with may be a patient's and is not kept."""
    purpose: Purpose = "fine-tune"
    status: Literal["processed"] = "processed"

    @classmethod
    def of(cls, manifest: DatasetManifest) -> "FileObject":
        """Return the manifest as the wire shows it."""
        return cls(
            id=manifest.id,
            bytes=manifest.statistics["bytes"],
            created_at=int(manifest.created_at),
            filename=f"{manifest.id}.jsonl",
        )

    @classmethod
    def of_result(cls, result: ResultFile) -> "FileObject":
        """Return the description of a training's table of steps."""
        return cls(
            id=result.id,
            bytes=result.size,
            created_at=int(result.created_at),
            filename=f"{result.id}.csv",
            purpose="fine-tune-results",
        )


@router.post("")
def create_file(
    services: ServicesDep,
    tenant: TenantDep,
    file: Annotated[UploadFile, File(description="JSON Lines or a JSON array of rows.")],
    purpose: Annotated[Literal["fine-tune"], Form()],
) -> FileObject:
    """Upload training data; every row is checked before anything is stored."""
    return FileObject.of(services.files.create(tenant, file.file))


@router.get("")
def list_files(
    services: ServicesDep,
    tenant: TenantDep,
    purpose: Purpose | None = None,
    after: AfterQuery = None,
    limit: Annotated[
        int, Query(ge=1, le=_MOST_FILES, description="How many to return at most.")
    ] = _MOST_FILES,
    order: Annotated[Literal["asc", "desc"], Query(description="By time: oldest or newest first.")] = "desc",
) -> Page[FileObject]:
    """List the tenant's files: those uploaded and the results of trainings, or one kind."""
    found: list[FileObject] = []
    if purpose != "fine-tune-results":
        found += [FileObject.of(manifest) for manifest in services.files.listing(tenant)]
    if purpose != "fine-tune":
        found += [FileObject.of_result(result) for result in services.result_files.listing(tenant)]
    found.sort(key=lambda file: (file.created_at, file.id), reverse=order == "desc")
    data, more = page_of(found, after, limit, kind="file")
    return Page(data=data, has_more=more)


@router.get("/{file_id}")
def get_file(file_id: str, services: ServicesDep, tenant: TenantDep) -> FileObject:
    """Return one file's description, an uploaded one's or that of a training's result."""
    try:
        return FileObject.of(services.files.get(tenant, file_id))
    except NotFound:
        return FileObject.of_result(services.result_files.get(tenant, file_id))


@router.get("/{file_id}/content", response_class=Response)
def get_file_content(file_id: str, services: ServicesDep, tenant: TenantDep) -> Response:
    """Download a file as it was uploaded, or a training's table of steps as CSV."""
    try:
        return Response(services.files.content(tenant, file_id), media_type="application/octet-stream")
    except NotFound:
        result = services.result_files.get(tenant, file_id)
        return Response(services.result_files.content(result), media_type="text/csv; charset=utf-8")


@router.delete("/{file_id}")
def delete_file(file_id: str, services: ServicesDep, tenant: TenantDep) -> Deleted:
    """Delete an uploaded file that no unfinished job reads. A training's result goes with its model."""
    try:
        services.files.delete(tenant, file_id)
    except NotFound:
        model = services.result_files.get(tenant, file_id).adapter_id
        raise Conflict(
            f"a training's result goes with its model: DELETE /v1/models/{model}",
            code="result_file_of_model",
        ) from None
    return Deleted(id=file_id, object="file")
