-- The order in which records are given their positions.
CREATE INDEX requests_unplaced_by_time ON nightporter_ledger.requests (tenant, at, writer, seq)
    WHERE position IS NULL;
