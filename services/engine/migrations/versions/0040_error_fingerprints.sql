-- What errors of one kind have in common: their type and their message without places and numbers, as a short key.
CREATE FUNCTION error_fingerprint(error jsonb) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN
    left(md5((error ->> 'type') || ' ' || regexp_replace(
        regexp_replace(left(error ->> 'message', 500), '[a-z0-9]+://\S+|/[^\s''",;:()]+', '/', 'g'),
        '\y[0-9a-f]*[0-9][0-9a-f]*\y|[0-9]+', '0', 'gi')), 12);
