-- What a node has for its tasks: cores, bytes, GPUs, bytes. Null: a worker of an earlier release, which does not say.
ALTER TABLE workers
    ADD COLUMN cpus double precision,
    ADD COLUMN memory bigint,
    ADD COLUMN gpus integer,
    ADD COLUMN disk bigint;

-- What each task asks of its node (services/contract/resources.py); null: nothing, but a slot's share.
ALTER TABLE stages ADD COLUMN needs jsonb;
ALTER TABLE bundles ADD COLUMN needs jsonb;

-- true: a scheduler of an earlier release queues the bundle, and does not know what its stage asks for.
ALTER TABLE bundles ALTER COLUMN needs SET DEFAULT 'true';

CREATE FUNCTION find_needs() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    NEW.needs := (SELECT s.needs FROM stages AS s WHERE s.job_id = NEW.job_id AND s.stage = NEW.stage);
    RETURN NEW;
END $$;
CREATE TRIGGER bundles_needs BEFORE INSERT ON bundles FOR EACH ROW WHEN (NEW.needs = 'true')
    EXECUTE FUNCTION find_needs();

-- Whether a node has as much as a task asks for.
CREATE FUNCTION node_holds(cpus double precision, memory bigint, gpus integer, disk bigint, needs jsonb)
    RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN
    coalesce(cpus, 0) >= coalesce((needs ->> 'cpus')::double precision, 0)
    AND coalesce(memory, 0) >= coalesce((needs ->> 'memory')::bigint, 0)
    AND coalesce(gpus, 0) >= coalesce((needs ->> 'gpus')::integer, 0)
    AND coalesce(disk, 0) >= coalesce((needs ->> 'disk')::bigint, 0);

-- A bundle that asks for something is only claimed by a worker whose node has it. Any other claim finds nothing.
CREATE FUNCTION refuse_unfit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF EXISTS (
        SELECT FROM workers AS w WHERE w.worker_id = NEW.worker_id
          AND node_holds(w.cpus, w.memory, w.gpus, w.disk, NEW.needs)
    ) THEN
        RETURN NEW;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER bundles_fit BEFORE UPDATE OF worker_id ON bundles FOR EACH ROW
    WHEN (NEW.needs IS NOT NULL AND OLD.worker_id IS NULL AND NEW.worker_id IS NOT NULL)
    EXECUTE FUNCTION refuse_unfit();
