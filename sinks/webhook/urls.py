"""Which URLs can be told to this sink. Messages never repeat one: many services put a credential into the
path."""

from cdcflow_sinks.webhook.templates import for_url


def plain_url(text: str) -> str:
    """The text, if it is a URL that requests can be sent to. Raises ValueError."""
    # A hundred milliseconds that a command which reads no webhook's settings need not spend.
    import httpx

    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        # Without the library's words, which repeat parts of the URL.
        raise ValueError("is not a URL: write one such as https://example.com/hook") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("is not an http URL: write one such as https://example.com/hook")
    if url.userinfo:
        raise ValueError("holds a user or a password: set `auth: {type: basic, …}` instead")
    if url.fragment:
        raise ValueError("holds a fragment (#…), which is never sent: remove it")
    return text


def url_with_fields(text: str) -> str:
    """As `plain_url`, with fields of the row in its path and its query."""
    template = for_url(text)
    if template and "/" not in text[: text.find("{")].partition("://")[2]:
        raise ValueError("takes fields of the row in its path and its query, and never in its host")
    plain_url(template.sample())
    return text


def shown(url: str) -> str:
    """What people are shown of a URL."""
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host}{slash}" + ("…" if path else "")
