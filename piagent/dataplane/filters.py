"""A route's filters in the engine's form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastpath import filters as engine
from fastpath.users import Users

if TYPE_CHECKING:
    from piagent.core.filters import (
        BasicAuth,
        Cors,
        Filters,
        ForwardAuth,
        HeaderEdits,
        Mirror,
        RateLimit,
        Redirect,
        Respond,
        Rewrite,
    )


def engine_filters(filters: Filters) -> engine.Filters:
    """The engine's form."""
    return engine.Filters(
        allowed=filters.allowed,
        denied=filters.denied,
        in_flight=filters.in_flight,
        rate=_rate(filters.rate_limit) if filters.rate_limit else None,
        body_size=filters.body_limit,
        auth=_auth(filters.basic_auth) if filters.basic_auth else None,
        respond=_respond(filters.respond) if filters.respond else None,
        redirect=_redirect(filters.redirect) if filters.redirect else None,
        rewrite=_rewrite(filters.rewrite) if filters.rewrite else None,
        strip_prefix=filters.strip_prefix,
        add_prefix=filters.add_prefix,
        request_headers=engine_edits(filters.request_headers),
        response_headers=engine_edits(filters.response_headers),
        cors=_cors(filters.cors) if filters.cors else None,
        compress=filters.compress,
        forward_auth=_forward_auth(filters.forward_auth) if filters.forward_auth else None,
        mirror=_mirror(filters.mirror) if filters.mirror else None,
        pages=tuple(
            engine.Page(page.first, page.last, page.body, page.content_type)
            for page in filters.error_pages
        ),
    )


def _rate(rate: RateLimit) -> engine.RateLimit:
    return engine.RateLimit(rate.requests, rate.period_ms, rate.burst, rate.header)


def _auth(auth: BasicAuth) -> engine.BasicAuth:
    return engine.BasicAuth(auth.realm, Users(auth.users.hashes))


def _cors(cors: Cors) -> engine.Cors:
    return engine.Cors(
        origins=cors.origins,
        methods=cors.methods,
        headers=cors.headers,
        exposed=cors.exposed,
        max_age_s=cors.max_age_ms // 1000,
        credentials=cors.credentials,
    )


def _forward_auth(auth: ForwardAuth) -> engine.ForwardAuth:
    return engine.ForwardAuth(auth.service, auth.path, auth.copy_headers)


def _mirror(mirror: Mirror) -> engine.Mirror:
    return engine.Mirror(mirror.service, mirror.percent)


def _respond(respond: Respond) -> engine.Respond:
    return engine.Respond(respond.status, respond.body.encode(), respond.content_type)


def _redirect(redirect: Redirect) -> engine.Redirect:
    return engine.Redirect(
        scheme=redirect.scheme,
        host=redirect.host,
        port=redirect.port,
        path=redirect.path,
        by_prefix=redirect.by_prefix,
        status=redirect.status,
    )


def _rewrite(rewrite: Rewrite) -> engine.Rewrite:
    return engine.Rewrite(rewrite.host, rewrite.path, rewrite.by_prefix)


def engine_edits(edits: HeaderEdits) -> engine.HeaderEdits:
    """The engine's form of edits."""
    return engine.HeaderEdits(edits.set, edits.add, edits.remove)
