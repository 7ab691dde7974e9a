"""``/v1/files`` in OpenAI's shape."""

from typing import Annotated, Literal

from fastapi import APIRouter, File, Form, Response, UploadFile
from pydantic import BaseModel

from narrowcast.datasets import DatasetManifest
from narrowcast_gateway.deps import ServicesDep, TenantDep
from narrowcast_gateway.schemas import Deleted, Page

router = APIRouter(prefix="/files", tags=["files"])


class FileObject(BaseModel):
    """OpenAI's file."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    """Made from the id: the name it was uploaded with may be a patient's and is not kept."""
    purpose: Literal["fine-tune"] = "fine-tune"
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


@router.post("")
def create_file(
    services: ServicesDep,
    tenant: TenantDep,
    file: Annotated[UploadFile, File(description="JSON Lines or a JSON array of rows.")],
    purpose: Annotated[Literal["fine-tune"], Form()],
) -> FileObject:
    """Upload training data; every row is checked before anything is stored."""
    return FileObject.of(services.files.create(tenant, file.file.read()))


@router.get("")
def list_files(services: ServicesDep, tenant: TenantDep) -> Page[FileObject]:
    """List the tenant's files, newest first."""
    return Page(data=[FileObject.of(manifest) for manifest in services.files.listing(tenant)])


@router.get("/{file_id}")
def get_file(file_id: str, services: ServicesDep, tenant: TenantDep) -> FileObject:
    """Return one file's description."""
    return FileObject.of(services.files.get(tenant, file_id))


@router.get("/{file_id}/content", response_class=Response)
def get_file_content(file_id: str, services: ServicesDep, tenant: TenantDep) -> Response:
    """Download a file as it was uploaded."""
    return Response(services.files.content(tenant, file_id), media_type="application/octet-stream")


@router.delete("/{file_id}")
def delete_file(file_id: str, services: ServicesDep, tenant: TenantDep) -> Deleted:
    """Delete a file."""
    services.files.delete(tenant, file_id)
    return Deleted(id=file_id, object="file")
