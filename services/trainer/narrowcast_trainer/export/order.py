"""What an export's process is told."""

from typing import Any, ClassVar

from pydantic import field_serializer

from narrowcast.exports import ExportSpec
from narrowcast_trainer.protocol import Order
from narrowcast_trainer.settings import HubSettings


class ExportOrder(Order):
    """Everything one export's process needs to know; goes in over standard input."""

    work: ClassVar[str] = "export"
    program: ClassVar[str] = "narrowcast_trainer.export"
    out_of_memory: ClassVar[str] = (
        "the export ran out of memory; it needs that of the base's largest file, and some more"
    )

    spec: ExportSpec
    hub: HubSettings

    @field_serializer("hub", when_used="json")
    def _reveal_token(self, hub: HubSettings) -> dict[str, Any]:
        return hub.model_dump() | {"token": hub.token and hub.token.get_secret_value()}
