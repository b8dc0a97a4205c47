-- Whether placeholders in the schedule's job are filled in for each run. What an earlier release has stored is as it stands.
ALTER TABLE schedules ADD COLUMN template boolean NOT NULL DEFAULT false;
