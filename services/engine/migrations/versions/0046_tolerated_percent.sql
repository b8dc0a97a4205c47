-- In place of tolerated_failures, which is 0 then: of the stage's tasks, once all of them are known.
ALTER TABLE stages ADD COLUMN tolerated_percent double precision;
