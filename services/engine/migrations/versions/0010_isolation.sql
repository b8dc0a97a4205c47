-- How strongly a worker's tasks are kept apart: sandbox, uid or process. Workers of earlier releases do not say.
ALTER TABLE workers ADD COLUMN isolation text;
