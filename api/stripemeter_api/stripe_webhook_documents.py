"""The documents of /v1/stripe, as OpenAPI shows them.

Belongs here: members of answers. Does not: Stripe's own objects.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stripemeter_api.documents import Document


class WebhookAnswer(Document):
    """The event is kept."""

    status: Literal["waiting", "ignored", "duplicate"] = Field(
        description="waiting: it will be processed; ignored: nothing here needs its type; duplicate: it was here."
    )
