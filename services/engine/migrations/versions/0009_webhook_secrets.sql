-- Secrets of webhook endpoints are derived from PIECEWORK_SECRET_KEY, the endpoint's id and its generation. `secret` is ''
-- then; a scheduler of the release before can't sign with that, so its try fails, and one of this release delivers it.
-- Generation 0: `secret` itself signs, as the release before has stored it, also until `previous_until` after a rotation.
ALTER TABLE webhook_endpoints
    ADD COLUMN generation integer NOT NULL DEFAULT 0,
    ADD COLUMN secret_digest text,
    ADD COLUMN previous_until timestamptz;
