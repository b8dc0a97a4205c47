-- The source of a task, as services/contract/source.py has it; null: its input is of no object of the job's input. (An
-- object with a CRC-32 was made by a task.)
CREATE FUNCTION source_of(input jsonb) RETURNS jsonb LANGUAGE sql STABLE PARALLEL SAFE RETURN CASE
    WHEN input ? 'source' OR input ? 'objects'
        OR input ? 'uri' AND input ->> 'type' <> 'outputs' AND NOT input ? 'crc32'
    THEN jsonb_strip_nulls(jsonb_build_object(
        'uri', coalesce(input #> '{source,uri}', input -> 'uri', input #> '{objects,0,uri}'),
        'part', coalesce(input #> '{source,part}', input -> 'part'),
        'objects', coalesce(input #> '{source,objects}', to_jsonb(jsonb_array_length(input -> 'objects')))))
END;

-- What the next stage's task works on: this output, which a task of that source has made.
CREATE FUNCTION successor_input(output jsonb, source jsonb) RETURNS jsonb LANGUAGE sql STABLE PARALLEL SAFE RETURN
    output_as_input(output) || CASE WHEN source IS NULL THEN '{}' ELSE jsonb_build_object('source', source) END;
