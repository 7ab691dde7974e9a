"""``/v1/datasets``."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from narrowcast import ids
from narrowcast.datasets import SPLITS, SplitName, to_array, to_jsonl
from narrowcast.errors import NotFound
from narrowcast_gateway.datasets.schemas import Dataset
from narrowcast_gateway.datasets.service import DATASET
from narrowcast_gateway.deps import KeyedRoute, ServicesDep, TenantDep
from narrowcast_gateway.schemas import Deleted, Page

router = APIRouter(prefix="/datasets", tags=["datasets"], route_class=KeyedRoute)


@router.get("")
def list_datasets(services: ServicesDep, tenant: TenantDep) -> Page[Dataset]:
    """List the tenant's datasets, newest first."""
    return Page(data=[Dataset.of(manifest) for manifest in services.datasets.listing(tenant, DATASET)])


@router.get("/{dataset_id}")
def get_dataset(dataset_id: str, services: ServicesDep, tenant: TenantDep) -> Dataset:
    """Return one dataset's counts."""
    return Dataset.of(services.datasets.get(tenant, dataset_id))


@router.get(
    "/{dataset_id}/content",
    response_class=Response,
    responses={200: {"content": {"application/json": {}, "application/jsonl": {}}}},
)
def get_dataset_content(
    dataset_id: str,
    services: ServicesDep,
    tenant: TenantDep,
    format: Annotated[  # noqa: A002 - the query parameter's name
        Literal["json", "jsonl"], Query(description="The paper's JSON array, or JSON Lines.")
    ] = "json",
    split: Annotated[SplitName | None, Query(description="One split; all of them if left out.")] = None,
) -> Response:
    """Download the rows: `{instruction, input, output}`; JSON Lines also name the source document."""
    manifest = services.datasets.get(tenant, dataset_id)
    rows = [row for name in ((split,) if split else SPLITS) for row in services.datasets.rows(manifest, name)]
    content, media_type = (
        (to_array(rows), "application/json") if format == "json" else (to_jsonl(rows), "application/jsonl")
    )
    name = f"{dataset_id}{'-' + split if split else ''}.{format}"
    return Response(
        content, media_type=media_type, headers={"Content-Disposition": f'attachment; filename="{name}"'}
    )


@router.delete("/{dataset_id}")
def delete_dataset(dataset_id: str, services: ServicesDep, tenant: TenantDep) -> Deleted:
    """Delete a dataset that no unfinished job reads."""
    if not ids.is_object_id(dataset_id, DATASET):
        # An uploaded file can be read here as the dataset that it is, with its original beside it, which
        # nobody who deletes "a dataset" has in mind.
        raise NotFound("no such dataset; DELETE /v1/files/{file_id} deletes a file")
    services.datasets.delete(tenant, dataset_id)
    return Deleted(id=dataset_id, object="dataset")
