-- Keys of spool entries whose rows are written, in the same transaction as the rows; pruned by age.
CREATE TABLE detector_worker.delivered (
  key text PRIMARY KEY,
  delivered_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX delivered_by_age ON detector_worker.delivered USING brin (delivered_at);
