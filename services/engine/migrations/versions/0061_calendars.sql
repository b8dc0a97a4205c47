-- Days on which a schedule does not run, whatever its cron expression says, or whose runs move to a business day.
ALTER TABLE schedules
    ADD COLUMN not_on text[] NOT NULL DEFAULT '{}',     -- day-of-month month day-of-week, or: holidays
    ADD COLUMN business_days text,                      -- only, previous, next
    ADD COLUMN holidays date[] NOT NULL DEFAULT '{}';
