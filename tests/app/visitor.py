"""One visitor in a browser context of their own."""

from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page

PATIENCE = 120_000  # milliseconds: a limit against hanging, far above what anything takes


class Visitor:
    """Notes what a page should never do: `outside` what it asks of other machines, `complaints` what it logs as wrong.

    `options` are those of a browser context.
    """

    def __init__(self, browser: Browser, address: str, **options):
        self.address, self.outside, self.complaints = address, [], []
        usual = {"viewport": {"width": 1440, "height": 900}, "accept_downloads": True}
        self.context = browser.new_context(**(usual | options))
        self.context.set_default_timeout(PATIENCE)
        self.context.on("request", self._note_request)
        self.page: Page = self.context.new_page()
        self.page.on("console", lambda message: message.type == "error" and self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _note_request(self, request):
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and parts.hostname != "127.0.0.1":
            self.outside.append(request.url)
