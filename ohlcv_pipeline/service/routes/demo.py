"""`/demo/mail`, in the sandbox profile only: the mails that the sandbox has taken, for people to read."""

from __future__ import annotations

import httpx
from fastapi.responses import HTMLResponse

from ohlcv_pipeline.service.context import Ctx
from ohlcv_pipeline.service.routing import router as new_router
from ohlcv_pipeline.service.templating import render

router = new_router("demo")

_SECONDS = 2.0


@router.get("/demo/mail", include_in_schema=False)
def mail(ctx: Ctx) -> HTMLResponse:
    """Show the mails in the sandbox's mailbox, newest first."""
    url = f"{ctx.platform.settings.sandbox_url}/admin/mail"
    try:
        answer = httpx.get(url, timeout=_SECONDS, trust_env=False)
        mails = answer.json()["mails"] if answer.is_success else None
    except httpx.HTTPError:
        mails = None
    return render("mail.html", sandbox=True, mails=None if mails is None else mails[::-1])
