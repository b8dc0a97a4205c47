-- Keys. Those that exist, and those that an API of the release before makes, control everything, as they always did:
-- the column's default is theirs, and this release always says which it is.
ALTER TABLE api_keys
    DROP CONSTRAINT api_keys_role_check,
    ADD CONSTRAINT api_keys_role_check CHECK (role IN ('viewer', 'submitter', 'developer', 'operator')),
    ADD COLUMN principal text,                      -- whose key it is: a person, a system
    ADD COLUMN "all" boolean NOT NULL DEFAULT true, -- controls what belongs to others, too
    ADD COLUMN shares text[] NOT NULL DEFAULT '{}', -- empty: of any share
    ADD COLUMN labels jsonb NOT NULL DEFAULT '{}',  -- that its jobs must have
    ADD COLUMN pools text[] NOT NULL DEFAULT '{}',  -- empty: any pool
    ADD COLUMN priority_max integer,
    ADD COLUMN expires_at timestamptz,
    ADD COLUMN last_used_at timestamptz,
    ADD COLUMN created_by text;

-- A key whose principal is not named is its own.
CREATE FUNCTION name_principal() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.principal := coalesce(NEW.principal, NEW.name);
    RETURN NEW;
END $$;
CREATE TRIGGER api_keys_principal BEFORE INSERT ON api_keys FOR EACH ROW EXECUTE FUNCTION name_principal();
UPDATE api_keys SET principal = name;
ALTER TABLE api_keys ALTER COLUMN principal SET NOT NULL;

-- Who made it. Null: it was made before principals were known, and belongs to nobody.
ALTER TABLE jobs ADD COLUMN created_by text;
ALTER TABLE schedules ADD COLUMN created_by text;
ALTER TABLE triggers ADD COLUMN created_by text;
ALTER TABLE processors ADD COLUMN created_by text;
ALTER TABLE webhook_endpoints ADD COLUMN created_by text;

ALTER TABLE uploads
    ADD COLUMN created_by text,
    ADD COLUMN final_uri text,                      -- where completion copies it, out of reach of its links; null: uri
    ADD COLUMN aborted_at timestamptz;

-- Every change, and every refusal of one, with who asked for it.
CREATE TABLE audit_log (
    audit_id uuid PRIMARY KEY,                      -- UUIDv7: in order of time
    at timestamptz NOT NULL DEFAULT now(),
    key_id uuid,                                    -- null: the scheduler, for the owner of a schedule or trigger
    principal text,                                 -- null: the owner is not known
    role text NOT NULL,                             -- of the key; 'scheduler'
    action text NOT NULL,                           -- the operation, as in the OpenAPI document
    outcome text NOT NULL CHECK (outcome IN ('done', 'refused')),
    subject_kind text NOT NULL,
    subject text,
    summary jsonb NOT NULL DEFAULT '{}',            -- what was changed; never a secret
    address text,                                   -- of the client
    request_id text                                 -- X-Request-Id, if there was one
);
CREATE INDEX audit_log_principal ON audit_log (principal, audit_id);
CREATE INDEX audit_log_subject ON audit_log (subject, audit_id);
CREATE INDEX audit_log_at ON audit_log (at);

-- Append only: rows are never changed, and go only when they are old (PIECEWORK_AUDIT_DAYS, at least a week).
CREATE FUNCTION refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND OLD.at < now() - interval '7 days' THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'audit_log is append only' USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE ON audit_log
    FOR EACH ROW EXECUTE FUNCTION refuse_audit_change();
CREATE TRIGGER audit_log_kept BEFORE TRUNCATE ON audit_log EXECUTE FUNCTION refuse_audit_change();
