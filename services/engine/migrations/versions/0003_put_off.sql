-- How often a worker could not run what the bundle offers: it is offered again, each time after a longer wait.
ALTER TABLE bundles ADD COLUMN put_off smallint NOT NULL DEFAULT 0;

-- Services of this revision and later work on the schema. A migration that takes away what they read or write raises it.
CREATE TABLE schema_compatibility (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    oldest_revision text NOT NULL
);
INSERT INTO schema_compatibility (oldest_revision) VALUES ('0001');
