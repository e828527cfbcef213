-- Records of no tenant are adopted by their box once it has an identity. Until then they have
-- no position, and there is no tree over them.
UPDATE nightporter_ledger.requests SET position = NULL
    WHERE tenant = (SELECT id FROM nightporter_ledger.tenants WHERE name = '')
    AND position IS NOT NULL;
DELETE FROM nightporter_ledger.trees WHERE tenant = '';
DELETE FROM nightporter_ledger.tiles WHERE tenant = '';
DELETE FROM nightporter_ledger.checkpoints WHERE tenant = '';

-- With what is asked for together with an app, so that the rows need not be read.
DROP INDEX nightporter_ledger.requests_by_app;
CREATE INDEX requests_by_app ON nightporter_ledger.requests (tenant, app, position)
    INCLUDE (kind, verdict, reason) WHERE position IS NOT NULL;
