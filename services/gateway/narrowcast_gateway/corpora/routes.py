"""``/v1/corpora``."""

from typing import Annotated

from fastapi import APIRouter, File, Form, UploadFile

from narrowcast.jobs.once import Once
from narrowcast_gateway.corpora.schemas import Corpus, CreatedCorpus, UploadedDocument
from narrowcast_gateway.deps import AfterQuery, IdempotencyKey, KeyedRoute, LimitQuery, ServicesDep, TenantDep
from narrowcast_gateway.schemas import Page

router = APIRouter(prefix="/corpora", tags=["corpora"], route_class=KeyedRoute)
_ShareForm = Annotated[float, Form(ge=0, lt=1, description="Share of the rows, by document.")]


@router.post("", status_code=202)
def create_corpus(
    services: ServicesDep,
    tenant: TenantDep,
    files: Annotated[list[UploadFile], File(description="Word documents (.doc, .docx), or zips of them.")],
    validation: _ShareForm = 0.1,
    test: _ShareForm = 0.1,
    seed: Annotated[int, Form(ge=0, description="Of the split.")] = 0,
    key: IdempotencyKey = None,
) -> CreatedCorpus:
    """Upload documents; a background job turns them into a de-identified dataset."""
    uploads = [(file.filename or "", file.file) for file in files]
    once = Once.of(key, f"{validation} {test} {seed}", *(file.file for file in files)) if key else None
    accepted = services.corpora.create(
        tenant, uploads, validation=validation, test=test, seed=seed, once=once
    )
    return CreatedCorpus(
        **Corpus.of(accepted.job).model_dump(),
        uploaded=[UploadedDocument(document=document, filename=name) for document, name in accepted.uploaded],
    )


@router.get("")
def list_corpora(
    services: ServicesDep, tenant: TenantDep, after: AfterQuery = None, limit: LimitQuery = 20
) -> Page[Corpus]:
    """List the tenant's corpora, newest first."""
    jobs, more = services.corpora.page(tenant, after, limit)
    return Page(data=[Corpus.of(job) for job in jobs], has_more=more)


@router.get("/{corpus_id}")
def get_corpus(corpus_id: str, services: ServicesDep, tenant: TenantDep) -> Corpus:
    """Return one corpus: progress, counts, and why documents were rejected."""
    return Corpus.of(services.corpora.get(tenant, corpus_id))


@router.post("/{corpus_id}/cancel")
def cancel_corpus(corpus_id: str, services: ServicesDep, tenant: TenantDep) -> Corpus:
    """Stop preprocessing and delete the originals."""
    return Corpus.of(services.corpora.cancel(tenant, corpus_id))
